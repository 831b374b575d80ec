"""A cache that processes share: its bound holds over all of them, and the dead leave nothing stale."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from zarr.storage import LocalStore

from tests.processes import METHODS, in_child, run
from tests.values import buffer, get
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.cached import CachedStore
from zarrstream.stores.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from pathlib import Path

    from zarrstream.stores.faulty import FaultyStore


def test_a_writer_that_was_killed_leaves_nothing_stale_and_the_cache_in_use(
    cache: ChunkCache, slow: FaultyStore
) -> None:
    """Killed between the change and its end: what was read meanwhile is forgotten, and later reads are kept again."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    store = CachedStore(slow, cache)
    place = store._place

    def die() -> None:
        change = ChunkCache(cache.mapping, max_bytes=1 << 20).changing(place, "c/0")
        change.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError):
        in_child(die)
    for _ in range(4):
        assert get(store, "c/0") == b"1"
    assert slow.count("get", "c/0") in {2, 3}


def fill(path: str, folder: str, number: int) -> None:
    cache = ChunkCache(SQLiteMapping(path, durability="off"), max_bytes=10_000)
    store = CachedStore(LocalStore(folder), cache)
    rng = random.Random(number)  # of keys, no secret  # noqa: S311  # of keys, no secret
    for _ in range(60):
        get(store, f"c/{rng.randrange(100)}")
    cache.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_bound_holds_over_processes_and_restarts(tmp_path: Path, method: str) -> None:
    """Four processes read a hundred chunks of 400 bytes through a cache of 25, and a new one finds what they left."""
    slow = LocalStore(tmp_path / "slow")
    for number in range(100):
        asyncio.run(slow.set(f"c/{number}", buffer(bytes([number]) * 400)))
    path = str(tmp_path / "cache.db")
    run(method, fill, [(path, str(tmp_path / "slow"), number) for number in range(4)])
    mapping = SQLiteMapping(path)
    kept = {name: len(value) for name, value in mapping.items() if name.startswith("v/")}
    assert 0 < sum(kept.values()) <= 10_000
    assert int(mapping["total"]) == sum(kept.values())
    mapping.close()
    fill(path, str(tmp_path / "slow"), 0)


def test_a_reader_that_was_killed_while_it_kept_a_value_keeps_nobody_from_it(
    cache: ChunkCache, slow: FaultyStore
) -> None:
    """Killed between the note of an entry and its value: the next reader keeps it after all."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    store = CachedStore(slow, cache)
    assert get(store, "c/0") == b"1"
    (value,) = cache.mapping.keys_under("v/")
    del cache.mapping[value]
    assert [get(store, "c/0"), get(store, "c/0")] == [b"1", b"1"]
    assert slow.count("get", "c/0") == 2
