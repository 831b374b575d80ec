"""Who waits for the lock of a cache's machine, and who does not: the event loop never."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from zarr.storage import MemoryStore

from tests.values import buffer, get
from zarrstream.stores.cached import CachedStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.core.buffer import Buffer

    from zarrstream.stores.chunk_cache import ChunkCache
    from zarrstream.stores.faulty import FaultyStore


@contextmanager
def held_by_another(cache: ChunkCache, seconds: float) -> Iterator[None]:
    """Have another thread hold the lock for so long; begin when it does."""
    begun = threading.Event()

    def hold() -> None:
        begun.set()
        time.sleep(seconds)

    thread = threading.Thread(target=cache._lock.run, args=(hold,))
    thread.start()
    begun.wait()
    yield
    thread.join()


async def longest_pause(task: asyncio.Task[None]) -> float:
    """Return for how long at most the event loop did nothing else until a task was done."""
    longest, last = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest


class _Slow(MemoryStore):
    """One that takes its time to set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        self.begun.set()
        await asyncio.sleep(0.2)
        await super().set(key, value, byte_range)


def test_the_end_of_a_change_does_not_hold_up_the_loop(cache: ChunkCache) -> None:
    async def change() -> float:
        store = _Slow()
        task = asyncio.create_task(CachedStore(store, cache).set("c/0", buffer(b"1")))
        await store.begun.wait()
        with held_by_another(cache, 1.0):
            return await longest_pause(task)

    assert asyncio.run(change()) < 0.5
    assert not list(cache.mapping.keys_under("w/"))


def test_a_change_that_is_cancelled_while_it_waits_leaves_no_mark(cache: ChunkCache, slow: FaultyStore) -> None:
    """Its thread would mark the key as changing when nobody is there any more to end that."""

    async def cancelled() -> None:
        with held_by_another(cache, 0.3):
            task = asyncio.create_task(CachedStore(slow, cache).set("c/0", buffer(b"1")))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert not list(cache.mapping.keys_under("w/"))
    assert not slow.count("set", "c/0")


def test_a_read_does_not_wait_to_note_what_was_used(cache: ChunkCache, slow: FaultyStore) -> None:
    asyncio.run(slow.set("c/0", buffer(b"1")))
    store = CachedStore(slow, cache)
    assert get(store, "c/0") == b"1"
    with held_by_another(cache, 1.0):
        cache._noted = 0.0
        began = time.monotonic()
        assert get(store, "c/0") == b"1"
        assert time.monotonic() - began < 0.5
    assert cache._used  # to be noted another time
    cache._noted = 0.0
    assert get(store, "c/0") == b"1"
    assert not cache._used
    assert slow.count("get", "c/0") == 1
