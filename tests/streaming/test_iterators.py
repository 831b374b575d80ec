"""One iterator: shared by tasks, ended from within or from elsewhere, cancelled, idle, pickled."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.streaming.spies import AsyncSpy, Spy, eventually, filled, stream_threads
from zarrstream import aio, stream_chunks, stream_slices
from zarrstream.streaming.chunk import Chunk
from zarrstream.streaming.engine import workers as crew
from zarrstream.streaming.reading.slabs import Band

STORES = [Spy, AsyncSpy]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("include_missing", [True, False])
async def test_tasks_that_share_an_iterator_share_its_chunks(store: type, include_missing: bool) -> None:
    """Each chunk goes to one of them, from one pass."""
    array, _ = await asyncio.to_thread(filled, store())
    chunks = aiter(aio.stream_chunks(array, include_missing=include_missing))

    async def worker() -> list[Any]:
        return [chunk.index async for chunk in chunks]

    got = await asyncio.gather(*(worker() for _ in range(4)))
    assert Counter(index for some in got for index in some) == Counter(np.ndindex(4, 3))
    assert set(array.store.seen("get").values()) == {1}


@pytest.mark.parametrize("store", STORES)
async def test_a_listener_that_raises_ends_the_pass(store: type) -> None:
    """Awaited as in a thread: nothing is left of it while the iterator is still there."""
    array, _ = await asyncio.to_thread(filled, store())

    def listen(_: object) -> None:
        raise ValueError("not now")

    chunks = aiter(aio.stream_chunks(array, progress=listen))
    with pytest.raises(ValueError, match="not now"):
        await anext(chunks)
    assert not stream_threads()
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_a_cancelled_call_is_no_end_of_the_chunks() -> None:
    """An iterator whose `anext` was cancelled says so, and does not look as if it had come to its end."""
    array, _ = await asyncio.to_thread(filled, AsyncSpy())
    entered, loop = asyncio.Event(), asyncio.get_running_loop()

    async def hold(*_: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        await asyncio.Event().wait()

    array.store.hook = hold
    chunks = aiter(aio.stream_chunks(array))
    call = asyncio.create_task(anext(chunks))
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert array.store.running == 0
    for _ in range(2):
        with pytest.raises(RuntimeError, match="was cancelled"):
            await anext(chunks)


async def test_a_task_that_waits_is_told_that_the_iterator_was_closed() -> None:
    """Without a time-out as well."""
    array, _ = await asyncio.to_thread(filled, AsyncSpy())
    entered, loop = asyncio.Event(), asyncio.get_running_loop()

    async def hold(*_: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        await asyncio.Event().wait()

    array.store.hook = hold
    stream = aio.stream_chunks(array, timeout=None)
    call = asyncio.create_task(anext(aiter(stream), None))
    await entered.wait()
    await stream.aclose()
    assert await call is None


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("where", ["progress", "filter"])
def test_a_stream_is_closed_from_its_own_callbacks(store: type, where: str) -> None:
    """`close()` in them ends this iterator at its next step, and the others at once."""
    array, _ = filled(store())
    armed: list[bool] = []

    def close(_: object) -> bool:
        if armed:
            stream.close()
        return True

    stream = stream_chunks(array, **{where: close})
    other = iter(stream)
    first = next(other)
    armed.append(True)
    assert list(stream) == []
    assert list(other) == []
    assert first.index == (0, 0)
    assert not stream_threads()


def test_a_stream_is_closed_from_another_thread() -> None:
    """Whoever waits for a chunk without a time-out gets the end."""
    array, _ = filled(AsyncSpy())
    entered = threading.Event()

    async def hold(*_: str) -> None:
        entered.set()
        await asyncio.Event().wait()

    array.store.hook = hold
    stream, got = stream_chunks(array, timeout=None), []
    reader = threading.Thread(target=lambda: got.append(list(stream)))
    reader.start()
    entered.wait(10)
    stream.close()
    reader.join(10)
    assert got == [[]]


@pytest.mark.parametrize("store", STORES)
def test_an_idle_iterator_keeps_no_thread(store: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads go when they have no work for a while, and come back when there is some."""
    monkeypatch.setattr(crew, "LINGER", 0.05)
    array, values = filled(store())
    iterators = [iter(stream_chunks(array)) for _ in range(20)]
    firsts = [next(chunks) for chunks in iterators]
    assert eventually(lambda: not stream_threads())
    for first, chunks in zip(firsts, iterators, strict=True):
        assert sum(int(chunk.data.sum()) for chunk in [first, *chunks]) == values.sum()


@pytest.mark.parametrize("store", STORES)
def test_threads_that_come_and_go_lose_nothing(store: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a thread looks, work that is put at that moment is done."""
    monkeypatch.setattr(crew, "LINGER", 0.0)
    array, values = filled(store(), shape=(600, 4), chunks=(2, 4))
    out = np.zeros_like(values)
    for chunk in stream_chunks(array, max_bytes=128):
        out[chunk.region] = chunk.data
    assert (out == values).all()


@pytest.mark.parametrize("stream", [stream_chunks, stream_slices, aio.stream_chunks])
def test_a_stream_says_that_it_does_not_pickle(stream: Any) -> None:
    """In one line, with what to send instead."""
    with pytest.raises(TypeError, match="send the array"):
        pickle.dumps(stream(filled(Spy())[0]))


def test_a_chunk_that_came_twice_has_come_once() -> None:
    """It completes no band: a slice is never cut out of memory that nobody wrote."""
    array, values = filled(Spy())
    plan = stream_slices(array)._plan
    band = Band(plan, 0)
    chunk = next(iter(stream_chunks(array)))
    for _ in range(3):
        band.place(chunk)
    assert band.waiting == 2
    for at in (1, 2):
        region = (slice(0, 5), slice(4 * at, 4 * at + 4))
        band.place(Chunk((0, at), region, values[region]))
    assert band.waiting == 0
    assert (band.cut((slice(0, 5), slice(0, 12))) == values[:5]).all()


class Awaited:
    async def __call__(self, _: object) -> bool:
        return False


async def awaited(_: object) -> bool:
    return False


@pytest.mark.parametrize("name", ["filter", "progress", "on_error"])
@pytest.mark.parametrize("given", [Awaited(), awaited], ids=["object", "function"])
def test_what_is_awaited_is_no_callback(name: str, given: Any) -> None:
    """A coroutine is true whatever it would return: a filter that lets all pass is refused before it does."""
    with pytest.raises(TypeError, match=f"{name} must be a plain callable"):
        stream_chunks(filled(Spy())[0], **{name: given})


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("stream", [stream_chunks, stream_slices])
def test_a_stream_follows_an_array_that_grows(store: type, stream: Any) -> None:
    """Each `iter()` and `len()` sees the array's shape of that time."""
    array, values = filled(store(), shape=(10, 4), chunks=(5, 4))
    items = stream(array)
    before = len(items)
    assert sum(int(item.data.sum()) for item in items) == values.sum()
    array.append(values)
    assert len(items) == 2 * before
    assert sum(int(item.data.sum()) for item in items) == 2 * values.sum()
    array.resize((5, 4))
    assert sum(int(item.data.sum()) for item in items) == values[:5].sum()


@pytest.mark.parametrize("store", STORES)
def test_progress_counts_what_is_filtered_out_and_knows_the_total(store: type) -> None:
    """At the end what is done, given up and filtered out are all."""
    array, _ = filled(store())

    def fail(operation: str, key: str) -> None:
        if operation == "get" and key == "c/1/0":
            raise OSError("disk on fire")

    async def fail_awaited(operation: str, key: str) -> None:
        fail(operation, key)

    array.store.hook = fail if store is Spy else fail_awaited
    told: list[Any] = []
    list(stream_chunks(array, filter=lambda index: index[1] != 2, on_error="skip", progress=told.append))
    last = told[-1]
    assert (last.done, last.failed, last.skipped, last.total) == (7, 1, 4, 12)
    list(stream_slices(array, thickness=5, on_error="skip", progress=told.append))
    assert (told[-1].done, told[-1].failed, told[-1].total) == (3, 1, 4)
    list(stream_chunks(array, include_missing=False, on_error="skip", progress=told.append))
    assert told[-1].total is None


def test_a_slice_of_numpy_integers_holds_integers() -> None:
    """Whatever thickness, step and region were made of."""
    array, _ = filled(Spy())
    options: dict[str, Any] = {"thickness": np.int64(3), "step": np.int64(5), "start": np.int64(1)}
    for item in stream_slices(array, region=np.s_[np.int64(0) : np.int64(20)], **options):
        assert {type(at) for part in item.region for at in (part.start, part.stop)} == {int}
        assert type(item.start) is int
