"""Who waits for the lock of a cache's machine, and who does not: the event loop never."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from zarr.storage import MemoryStore

from tests.values import buffer, get
from zarrstream.stores.wrappers.cached import CachedStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.core.buffer import Buffer

    from zarrstream.faults.store import FaultyStore
    from zarrstream.stores.wrappers.chunk_cache import ChunkCache


@contextmanager
def held_by_another(cache: ChunkCache) -> Iterator[threading.Event]:
    """Have another thread hold the lock until the event is set, or the block ends.

    Should whoever sets it, or ends the block, wait for the lock himself, it is held for too long, and the test fails.
    """
    begun, free, freed = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        freed.append(free.wait(30))

    thread = threading.Thread(target=cache._lock.run, args=(hold,))
    thread.start()
    begun.wait()
    try:
        yield free
    finally:
        free.set()
        thread.join()
    assert freed == [True]


def next_asked_for(cache: ChunkCache, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return what is set, on the loop that runs, as soon as somebody asks for the lock."""
    run, asked, loop = cache._lock.run, asyncio.Event(), asyncio.get_running_loop()

    def noted(*arguments: Any, **options: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        return run(*arguments, **options)

    monkeypatch.setattr(cache._lock, "run", noted)
    return asked


class _Held(MemoryStore):
    """One whose writes wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        self.begun.set()
        await self.goes_on.wait()
        await super().set(key, value, byte_range)


def test_the_end_of_a_change_does_not_hold_up_the_loop(cache: ChunkCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the loop that lets the lock go, while the change waits for it."""

    async def change() -> None:
        store = _Held()
        task = asyncio.create_task(CachedStore(store, cache).set("c/0", buffer(b"1")))
        await store.begun.wait()
        with held_by_another(cache) as free:
            asked = next_asked_for(cache, monkeypatch)
            store.goes_on.set()
            await asked.wait()
            assert not task.done()
            free.set()
            await task

    asyncio.run(change())
    assert not list(cache.mapping.keys_under("w/"))


def test_a_change_that_is_cancelled_while_it_waits_leaves_no_mark(
    cache: ChunkCache, slow: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread would mark the key as changing when nobody is there any more to end that."""

    async def cancelled() -> None:
        with held_by_another(cache) as free:
            asked = next_asked_for(cache, monkeypatch)
            task = asyncio.create_task(CachedStore(slow, cache).set("c/0", buffer(b"1")))
            await asked.wait()
            task.cancel()
            free.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert not list(cache.mapping.keys_under("w/"))
    assert not slow.count("set", "c/0")


def test_a_read_does_not_wait_to_note_what_was_used(cache: ChunkCache, slow: FaultyStore) -> None:
    asyncio.run(slow.set("c/0", buffer(b"1")))
    store = CachedStore(slow, cache)
    assert get(store, "c/0") == b"1"
    with held_by_another(cache):
        cache._noted = 0.0
        assert get(store, "c/0") == b"1"
    assert cache._used  # to be noted another time
    cache._noted = 0.0
    assert get(store, "c/0") == b"1"
    assert not cache._used
    assert slow.count("get", "c/0") == 1
