"""Awaited calls that are made at once end together."""

from __future__ import annotations

import ast
import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.test_floors import FILES, name_of
from zarrstream.concurrency.tasks import for_each, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def test_results_come_in_the_order_of_the_calls() -> None:
    async def call(number: int) -> int:
        for _ in range(3 - number):
            await asyncio.sleep(0)
        return number

    assert asyncio.run(together(call(number) for number in range(3))) == [0, 1, 2]


def test_the_first_failure_is_raised_itself_when_the_others_have_ended() -> None:
    """They are cancelled, and nobody has to look into a group for it."""
    ended = []

    async def call(number: int) -> None:
        if number == 1:
            raise LookupError(number)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(number)

    with pytest.raises(LookupError) as caught:
        asyncio.run(together(call(number) for number in range(3)))
    assert sorted(ended) == [0, 2]
    assert caught.value.__context__ is None


def test_no_more_items_are_worked_on_at_once_than_was_said() -> None:
    """Four there are, and never a fifth."""
    busy, peak = 0, 0

    async def main() -> None:
        meet = asyncio.Barrier(4)

        async def work(_: int) -> None:
            nonlocal busy, peak
            busy += 1
            peak = max(peak, busy)
            await meet.wait()
            busy -= 1

        await for_each(numbers(40), work, at_once=4)

    asyncio.run(main())
    assert (busy, peak) == (0, 4)


def test_after_a_failure_no_item_is_begun() -> None:
    begun = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 5:
            raise LookupError(number)

    with pytest.raises(LookupError):
        asyncio.run(for_each(numbers(1000), work, at_once=3))
    assert len(begun) < 12


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_gathered_that_would_go_on_after_a_failure(path: Path) -> None:
    """`asyncio.gather` leaves the others running: requests, and removals, that nobody has an eye on."""
    names = [node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    assert "gather" not in names
