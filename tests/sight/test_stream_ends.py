"""How a stream that is left, forgotten, cancelled or forked ends: closed, once, with nothing in flight."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING

import pytest

from tests.streaming.spies import AsyncSpy, Spy, filled
from zarrstream import (
    aio,
    stream_chunks,
)

if TYPE_CHECKING:
    from tests.sight.conftest import Seen


@pytest.mark.parametrize("face", ["break", "close", "aio"])
def test_a_stream_that_is_left_is_closed(seen: Seen, face: str) -> None:
    """Leaving early is no failure, and nothing is in flight after it."""
    array, _ = filled(Spy())

    async def leave() -> None:
        stream = aio.stream_chunks(array)
        async with stream:
            async for _ in stream:
                return

    if face == "aio":
        asyncio.run(leave())
    else:
        stream = stream_chunks(array)
        items = iter(stream)
        next(items)
        if face == "close":
            stream.close()
        del items
    span = seen.span("zarrstream.stream")
    assert span.attributes["zarrstream.stream.outcome"] == "closed"
    assert span.status.is_unset
    assert seen.total("zarrstream.stream.in_flight") == seen.total("zarrstream.stream.buffer.usage") == 0


def test_a_stream_that_is_forgotten_is_closed(seen: Seen) -> None:
    """An awaited stream that nobody closed ends with its iterator."""
    array, _ = filled(Spy())

    async def forget() -> None:
        items = aiter(aio.stream_chunks(array))
        await anext(items)

    asyncio.run(forget())
    gc.collect()
    assert seen.span("zarrstream.stream").attributes["zarrstream.stream.outcome"] == "closed"
    assert seen.total("zarrstream.stream.in_flight") == 0


@pytest.mark.parametrize("way", ["read", "write"])
async def test_a_task_that_is_cancelled_closes_its_stream(seen: Seen, way: str) -> None:
    """Whoever cancels a task knows: that is no failure of the stream's."""
    store, entered = AsyncSpy(), asyncio.Event()
    array, values = filled(store)
    loop = asyncio.get_running_loop()

    async def hold(*_: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        await asyncio.Event().wait()

    async def read_all() -> None:
        async for _ in aio.stream_chunks(array):
            pass

    store.hook = hold
    work = read_all() if way == "read" else aio.write_stream(array, [((0, 0), values[:5, :4])])
    task = asyncio.create_task(work)
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = seen.span("zarrstream.stream")
    assert span.attributes["zarrstream.stream.outcome"] == "closed"
    assert span.status.is_unset


def test_a_stream_that_is_never_begun_is_no_stream(seen: Seen) -> None:
    """A stream is lazy, and so is its span."""
    array, _ = filled(Spy())
    iter(stream_chunks(array))
    assert seen.spans() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_ends_nothing(seen: Seen) -> None:
    """The span of a pass belongs to the process that began it."""
    items = iter(stream_chunks(filled(Spy())[0]))
    next(items)
    if (child := os.fork()) == 0:
        try:
            items.close()
        finally:
            os._exit(len(seen.spans("zarrstream.stream")))
    assert os.waitpid(child, 0)[1] == 0
    items.close()
    assert seen.span("zarrstream.stream")
