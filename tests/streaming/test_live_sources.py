"""A source that is silent for long: what is acknowledged meanwhile is recorded and told, and errors are raised."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from tests.streaming.spies import AsyncSpy, Spy, filled, stream_threads
from zarrstream import Checkpoint, ChunkTimeoutError, ChunkWriteError, Progress, aio, stream_chunks, write_stream
from zarrstream.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STORES = [Spy, AsyncSpy]
DATA = np.zeros((5, 4), "i4")


class Sensor:
    """Yields one chunk, is silent until something was heard, and yields another."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.told: list[Progress] = []
        self.left = False

    def listen(self, now: Progress) -> None:
        self.told.append(now)
        self.heard.set()

    async def items(self) -> AsyncIterator[Any]:
        try:
            yield (0, 0), DATA
            await self.heard.wait()
            yield (0, 1), DATA
        finally:
            self.left = True


@pytest.mark.parametrize("store", STORES)
async def test_what_is_stored_is_told_while_the_source_is_silent(store: type) -> None:
    """It would be silent for ever if its first chunk were told with the second."""
    array, _ = await asyncio.to_thread(filled, store())
    sensor = Sensor()
    async with asyncio.timeout(10):
        report = await aio.write_stream(array, sensor.items(), progress=sensor.listen)
    assert report.written == 2
    assert [now.done for now in sensor.told] == [1, 2]


async def test_what_is_stored_is_recorded_while_the_source_is_silent(tmp_path: Path) -> None:
    """A kill in the silence loses no record."""
    array = await asyncio.to_thread(
        lambda: zarr.create_array(LocalStore(tmp_path / "a"), shape=(8,), chunks=(2,), dtype="i4")
    )
    sensor, recorded = Sensor(), []

    async def source() -> AsyncIterator[Any]:
        yield (0,), np.ones(2, "i4")
        await sensor.heard.wait()
        recorded.append(len((tmp_path / "c").read_bytes().splitlines()))
        yield (1,), np.ones(2, "i4")

    async with asyncio.timeout(10):
        await aio.write_stream(array, source(), checkpoint=Checkpoint(tmp_path / "c"), progress=sensor.listen)
    assert recorded == [2]  # what it is bound to, and the chunk


@pytest.mark.parametrize(
    ("store", "way"),
    [(AsyncSpy, "is late"), *((store, way) for store in STORES for way in ("fails", "listener"))],
)
async def test_an_error_does_not_wait_for_the_source(store: type, way: str) -> None:
    """The source is cancelled where it waits, and the error is raised; nothing is left running."""
    array, _ = await asyncio.to_thread(filled, store())
    sensor = Sensor()
    gate = asyncio.Event()

    def fail(operation: str, _: str) -> None:
        if operation == "set":
            raise OSError("disk on fire")

    async def fail_awaited(operation: str, key: str) -> None:
        fail(operation, key)

    async def hang(operation: str, _: str) -> None:
        if operation == "set":
            await gate.wait()

    def raises(_: Progress) -> None:
        raise LookupError("not now")

    if way != "listener":
        array.store.hook = hang if way == "is late" else fail if store is Spy else fail_awaited
    kinds = {"fails": ChunkWriteError, "is late": ChunkTimeoutError, "listener": LookupError}
    options: dict[str, Any] = {"timeout": 0.02} if way == "is late" else {"timeout": None}
    task = asyncio.current_task()
    assert task is not None
    async with asyncio.timeout(10):
        with pytest.raises(kinds[way]):
            await aio.write_stream(array, sensor.items(), progress=raises if way == "listener" else None, **options)
    assert task.cancelling() == 0
    assert sensor.left
    assert not stream_threads()


@pytest.mark.parametrize("policy", ["skip", lambda _: None], ids=["skip", "callable"])
async def test_a_policy_that_goes_on_does_not_end_the_source(policy: Any) -> None:
    """It is asked when the source has its next item."""
    array, _ = await asyncio.to_thread(filled, AsyncSpy())
    sensor = Sensor()

    async def fail(operation: str, key: str) -> None:
        if operation == "set" and key == "c/0/0":
            asyncio.get_running_loop().call_soon(main.call_soon_threadsafe, sensor.heard.set)
            raise OSError("disk on fire")

    main, array.store.hook = asyncio.get_running_loop(), fail
    async with asyncio.timeout(10):
        report = await aio.write_stream(array, sensor.items(), on_error=policy)
    assert (report.written, report.failed) == (1, 1)


async def test_a_cancelled_write_is_cancelled_while_the_source_is_silent() -> None:
    """Whoever cancels it gets the cancellation, and no error."""
    array, _ = await asyncio.to_thread(filled, AsyncSpy())
    sensor, told = Sensor(), asyncio.Event()
    task = asyncio.create_task(aio.write_stream(array, sensor.items(), progress=lambda _: told.set()))
    await told.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sensor.left


@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_the_total_counts_chunks(face: str) -> None:
    """An item of several chunks is several: at the end as many are done as there were in all."""
    array, values = await asyncio.to_thread(filled, Spy())
    told: list[Progress] = []
    source = [((slice(0, 10), slice(0, 12)), values[:10]), ((2, 0), values[10:15, :4])]
    if face == "aio":
        await aio.write_stream(array, source, progress=told.append)
    else:
        await asyncio.to_thread(lambda: write_stream(array, source, progress=told.append))
    assert (told[-1].done, told[-1].total) == (7, 7)


class Lister(AsyncSpy):
    """A store whose listing hangs after so many keys, or has so many seconds pass for each."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.hangs_after = 1 << 30
        self.each = self.passed = 0.0

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        keys = [key async for key in super().list_prefix(prefix)]
        for position, key in enumerate(keys):
            if position >= self.hangs_after:
                await asyncio.Event().wait()
            self.passed += self.each
            await asyncio.sleep(0)
            yield key


@pytest.mark.parametrize("face", ["blocking", "aio"])
@pytest.mark.parametrize("after", [0, 5])
async def test_a_listing_that_hangs_is_late(face: str, after: int, tmp_path: Path) -> None:
    """The time-out holds for it: reading what is stored, and opening a checkpoint."""

    store = Lister()
    store.place = "lister://here"
    array, _ = await asyncio.to_thread(filled, store)
    store.hangs_after = after
    options: dict[str, Any] = {"include_missing": False, "timeout": 0.05}
    checkpoint = Checkpoint(tmp_path / "c")

    async def read() -> object:
        if face == "aio":
            return [chunk async for chunk in aio.stream_chunks(array, **options)]
        return await asyncio.to_thread(lambda: list(stream_chunks(array, **options)))

    async def write() -> object:
        if face == "aio":
            return await aio.write_stream(array, [], checkpoint=checkpoint, timeout=0.05)
        return await asyncio.to_thread(lambda: write_stream(array, [], checkpoint=checkpoint, timeout=0.05))

    for work in (read, write):
        with pytest.raises(StoreTimeoutError, match=r"brought nothing for timeout=0\.05 s"):
            await work()


async def test_a_listing_that_goes_on_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes in all: by the loop's clock six times as long as the time-out."""
    store, loop = Lister(), asyncio.get_running_loop()
    array, _ = await asyncio.to_thread(filled, store)
    store.each, time = 15.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + store.passed)
    stream = aio.stream_chunks(array.async_array, include_missing=False, timeout=30)
    assert [chunk.index async for chunk in stream] == list(np.ndindex(4, 3))
    assert store.passed >= 180


class Bound(AsyncSpy):
    """A store that belongs to the loop on which it was opened."""

    loop: Any = None

    def check(self) -> None:
        if self.loop not in (None, asyncio.get_running_loop()):
            raise RuntimeError("got Future attached to a different loop")

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        self.check()
        return await super().get(key, prototype, byte_range)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        self.check()
        async for key in super().list_prefix(prefix):
            yield key


@pytest.mark.parametrize("include_missing", [True, False])
async def test_a_store_of_another_loop_is_told_of_the_awaited_functions(include_missing: bool) -> None:
    """The error says where the array belongs."""

    store = Bound()
    array, _ = await asyncio.to_thread(filled, store)
    store.loop = asyncio.get_running_loop()
    face = array.async_array
    assert len([chunk async for chunk in aio.stream_chunks(face, include_missing=include_missing)]) == 12
    with pytest.raises((RuntimeError, OSError), match=r"zarrstream\.aio"):
        await asyncio.to_thread(lambda: list(stream_chunks(face, include_missing=include_missing)))
