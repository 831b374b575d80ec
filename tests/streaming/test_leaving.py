"""A stream that is left early reads no further and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
from typing import Any

import pytest
from zarr.core.sync import sync

from tests.streaming.spies import AsyncSpy, Spy, eventually, filled, stream_threads
from zarrstream import stream_chunks, stream_slices, write_stream

STORES = [Spy, AsyncSpy]


def divide_by_zero(_: object) -> float:
    return 1 / 0


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("way", ["break", "exception", "close", "close stream", "with", "garbage"])
def test_leaving_stops_reading(store: type, way: str) -> None:
    """By `break`, an exception, `close()` or garbage collection: no further read, no thread."""
    array, _ = filled(store(), shape=(1000, 4), chunks=(1, 4))
    stream = stream_chunks(array, max_bytes=512)
    if way == "break":
        for _ in stream:
            break
    elif way == "exception":
        with pytest.raises(ZeroDivisionError):
            list(map(divide_by_zero, stream))
    elif way == "close":
        chunks = iter(stream)
        next(chunks)
        chunks.close()
        with pytest.raises(StopIteration):
            next(chunks)
    elif way == "close stream":
        chunks = iter(stream)
        next(chunks)
        stream.close()
    elif way == "with":
        with stream:
            chunks = iter(stream)
            next(chunks)
    else:
        chunks = iter(stream)
        next(chunks)
        del chunks
        gc.collect()
    assert eventually(lambda: not stream_threads(), seconds=0.5)
    assert eventually(lambda: array.store.running == 0)
    calls = sum(array.store.calls.values())
    assert calls < 200
    assert not eventually(lambda: sum(array.store.calls.values()) != calls, seconds=0.05)


def test_awaited_requests_are_cancelled() -> None:
    """What hangs on an awaited store is cancelled when the stream is left."""
    array, _ = filled(AsyncSpy(), shape=(64, 4), chunks=(1, 4))

    async def hang(_: str, key: str) -> None:
        if key != "c/0/0":
            await asyncio.sleep(60)

    array.store.hook = hang
    for chunk in stream_chunks(array):
        assert chunk.index == (0, 0)
        assert eventually(lambda: array.store.running == 16)
        break
    assert eventually(lambda: array.store.running == 0, seconds=0.5)
    assert array.store.cancelled >= 16


def test_a_stuck_call_does_not_hold_the_caller() -> None:
    """Closing waits a moment, not for a call that hangs; the thread goes once the call returns."""
    array, _ = filled(Spy(), shape=(64, 4), chunks=(1, 4))
    release = threading.Event()
    array.store.hook = lambda _, key: release.wait(10) if key != "c/0/0" else None
    for _ in stream_chunks(array, concurrency=2, max_bytes=16):
        break
    release.set()
    assert eventually(lambda: not stream_threads())


def test_slices_left_early() -> None:
    """Slices stop as chunks do."""
    array, _ = filled(Spy(), shape=(1000, 4), chunks=(10, 4))
    for _ in stream_slices(array, max_bytes=512):
        break
    assert eventually(lambda: not stream_threads(), seconds=0.5)
    assert sum(array.store.calls.values()) < 20


def test_interrupted_writing_leaves_nothing() -> None:
    """An interrupt in the source ends the write without a thread."""
    array, values = filled(Spy())

    def source() -> Any:
        yield (0, 0), values[:5, :4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stream(array, source())
    assert eventually(lambda: not stream_threads(), seconds=0.5)


def _in_child(chunks: Any, answers: Any) -> None:
    try:
        next(chunks)
    except RuntimeError as error:
        answers.put(str(error))
    else:
        answers.put("no error")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_an_iterator_from_before_a_fork_raises() -> None:
    """Its threads stayed in the parent; the child hears of it, and a new iterator works in both."""
    array, _ = filled(Spy())
    chunks = iter(stream_chunks(array))
    next(chunks)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(chunks, answers))
    child.start()
    assert "fork" in answers.get()
    child.join(10)
    child.close()
    answers.close()
    assert len(list(chunks)) == 11


def test_on_zarrs_own_loop_it_raises() -> None:
    """A synchronous stream on zarr's loop would wait for itself."""
    array, _ = filled(Spy())

    async def on_loop() -> list[Any]:
        return list(stream_chunks(array))

    with pytest.raises(RuntimeError, match=r"zarrstream\.aio"):
        sync(on_loop())


def test_inside_another_loop_it_works() -> None:
    """In somebody's running loop a synchronous stream blocks, and works."""
    array, _ = filled(AsyncSpy())

    async def elsewhere() -> int:
        return len(list(stream_chunks(array)))

    assert asyncio.run(elsewhere()) == 12
