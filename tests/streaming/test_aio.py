"""The awaited face: the same names, the same chunks, on the caller's loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import LocalStore

import zarrstream.aio
from tests.streaming.spies import AsyncSpy, Spy, eventually, filled, stream_threads
from zarrstream import Checkpoint, ChunkReadError, ChunkTimeoutError, Progress, aio

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

STORES = [Spy, AsyncSpy]


async def made(store: Any, **options: Any) -> tuple[zarr.Array, np.ndarray]:
    """An array first used through zarr's synchronous functions, on zarr's own loop."""
    return await asyncio.to_thread(filled, store, **options)


def faces(array: zarr.Array) -> list[Any]:
    return [array, array.async_array]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("options", [{}, {"shape": (20, 16), "shards": (10, 8)}])
async def test_chunks_slices_and_writing(store: type, options: dict) -> None:
    """Both kinds of array stream in and out."""
    array, values = await made(store(), **options)
    for face in faces(array):
        out = np.zeros_like(values)
        async for chunk in aio.stream_chunks(face):
            out[chunk.region] = chunk.data
        assert (out == values).all()
        out[...] = 0
        async for found in aio.stream_slices(face, 1, thickness=3):
            out[found.region] = found.data
        assert (out == values).all()
        values = values + 1
        report = await aio.write_stream(face, [((slice(0, values.shape[0]), slice(None)), values)])
        assert report.written == values.size // 20
        assert (
            (await face.getitem(...) if face is not array else await asyncio.to_thread(lambda: array[...])) == values
        ).all()


async def test_where_requests_run() -> None:
    """A `zarr.Array` is fetched on zarr's own loop, a `zarr.AsyncArray` on the running one."""
    array, _ = await made(AsyncSpy())
    loops: set[Any] = set()

    async def note(*_: object) -> None:
        loops.add(asyncio.get_running_loop())

    array.store.hook = note
    async for _ in aio.stream_chunks(array.async_array):
        pass
    assert loops == {asyncio.get_running_loop()}
    loops.clear()
    async for _ in aio.stream_chunks(array):
        pass
    assert len(loops) == 1
    assert asyncio.get_running_loop() not in loops


def test_twice_from_asyncio_run(tmp_path: Path) -> None:
    """A store that was used through zarr's synchronous functions streams from `asyncio.run`, and again."""
    for store in (AsyncSpy(), Spy(), LocalStore(tmp_path)):
        array, values = filled(store)

        async def total(array: zarr.Array = array) -> int:
            return sum([int(chunk.data.sum()) async for chunk in aio.stream_chunks(array)])

        assert asyncio.run(total()) == asyncio.run(total()) == values.sum()
        assert int(array[...].sum()) == values.sum()


async def fail_at_once(stream: Any) -> None:
    async for _ in stream:
        raise ZeroDivisionError


async def consume(stream: Any, began: asyncio.Event) -> None:
    async for _ in stream:
        began.set()
        await asyncio.sleep(0)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("way", ["break", "exception", "aclose", "with", "cancel", "garbage"])
async def test_leaving_stops_reading(store: type, way: str) -> None:
    """Left early or cancelled: no further read, no thread, no task."""
    array, _ = await made(store(), shape=(1000, 4), chunks=(1, 4))
    for face in faces(array):
        array.store.calls.clear()
        before = asyncio.all_tasks()
        stream = aio.stream_chunks(face, max_bytes=512)
        if way == "break":
            async for _ in stream:
                break
        elif way == "exception":
            with pytest.raises(ZeroDivisionError):
                await fail_at_once(stream)
        elif way == "aclose":
            chunks = aiter(stream)
            await anext(chunks)
            await chunks.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)
        elif way == "with":
            async with stream:
                await anext(aiter(stream))
        elif way == "garbage":
            chunks = aiter(stream)
            await anext(chunks)
            del chunks
        else:
            began = asyncio.Event()

            task = asyncio.create_task(consume(stream, began))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.to_thread(eventually, lambda: not stream_threads())
        assert await asyncio.to_thread(eventually, lambda: array.store.running == 0)
        assert asyncio.all_tasks() == before
        assert sum(array.store.calls.values()) < (1000 if way == "cancel" else 200)


async def test_the_loop_is_not_blocked() -> None:
    """While a stream waits, others run; and a stuck synchronous call times out by name."""
    array, _ = await made(Spy())
    release = threading.Event()
    array.store.hook = lambda _, key: release.wait(30) if key == "c/1/2" else None
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while not release.is_set():
            beats += 1
            await asyncio.sleep(0.01)

    beating = asyncio.create_task(beat())
    with pytest.raises(ChunkTimeoutError, match=r"\(1, 2\)"):
        async for _ in aio.stream_chunks(array, timeout=2):
            pass
    release.set()
    await beating
    assert beats > 5
    assert await asyncio.to_thread(eventually, lambda: not stream_threads())


async def test_errors_and_progress() -> None:
    """Policies are those of the blocking face, and callables run on the caller's loop."""
    array, values = await made(AsyncSpy())

    async def fail(what: str, key: str) -> None:
        if (what, key) == ("get", "c/1/2"):
            raise OSError("the disk is on fire")

    array.store.hook = fail
    with pytest.raises(ChunkReadError, match="on fire"):
        async for _ in aio.stream_chunks(array.async_array):
            pass
    heard: list[Progress] = []
    got = [chunk.index async for chunk in aio.stream_chunks(array, on_error="skip", progress=heard.append)]
    assert len(got) == 11
    assert (heard[-1].done, heard[-1].failed) == (11, 1)
    array.store.hook = None
    threads: set[threading.Thread] = set()

    async def source() -> Any:
        for index in np.ndindex(4, 3):
            threads.add(threading.current_thread())
            await asyncio.sleep(0)
            yield index, values[5 * index[0] :, 4 * index[1] :][:5, :4] + 5

    report = await aio.write_stream(array, source(), progress=lambda _: threads.add(threading.current_thread()))
    assert report.written == 12
    assert threads == {threading.current_thread()}
    assert (await asyncio.to_thread(lambda: array[...]) == values + 5).all()


async def test_checkpointed(tmp_path: Path) -> None:
    """A checkpoint resumes here as well, on both kinds of array."""
    array, values = await made(LocalStore(tmp_path / "a"))
    items = [(index, values[5 * index[0] :, 4 * index[1] :][:5, :4]) for index in np.ndindex(4, 3)]
    await aio.write_stream(array, items[:5], checkpoint=Checkpoint(tmp_path / "c"))
    report = await aio.write_stream(array.async_array, items, checkpoint=Checkpoint(tmp_path / "c"))
    assert (report.written, report.skipped) == (7, 5)
    some = [chunk.index async for chunk in aio.stream_chunks(array, include_missing=False)]
    assert len(some) == 12


async def test_names_and_length() -> None:
    """The module has the same names; length, truth and repr are the blocking face's."""
    assert set(zarrstream.aio.__all__) >= {"stream_chunks", "stream_slices", "write_stream"}
    array, _ = await made(Spy())
    stream = aio.stream_chunks(array)
    assert len(stream) == 12
    assert stream
    assert "asynchronous" in repr(stream)
    assert len([chunk async for chunk in stream]) == len([chunk async for chunk in stream]) == 12
