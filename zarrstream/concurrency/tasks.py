"""Several awaited calls at once, of which none goes on after the first failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
    from typing import Any

T = TypeVar("T")


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what some calls return, made at once, in their order.

    Unlike `asyncio.gather`, the first failure cancels the others, and is raised when they have ended.

    Parameters
    ----------
    calls : iterable of coroutine
        The calls.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first  # out here the group is not its context


async def for_each(items: AsyncIterable[T], work: Callable[[T], Awaitable[object]], *, at_once: int) -> None:
    """Do some work for each item as it comes; after the first failure nothing begins any more.

    Parameters
    ----------
    items : async iterable
        The items; one task at a time asks for the next.
    work : callable
        What is awaited for each.
    at_once : int
        For how many items at a time.
    """
    coming, asking = aiter(items), asyncio.Lock()

    async def go_on() -> None:
        while True:
            async with asking:
                try:
                    item = await anext(coming)
                except StopAsyncIteration:
                    return
            await work(item)

    await together(go_on() for _ in range(at_once))
