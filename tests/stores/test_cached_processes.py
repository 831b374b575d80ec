"""A cache that processes share: its bound holds over all of them, and the dead leave nothing stale."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from zarr.storage import LocalStore

from tests.processes import METHODS, forked, in_child, run
from tests.values import buffer, content, get
from zarrstream import open_store
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.wrappers.cached import CachedStore
from zarrstream.stores.wrappers.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from pathlib import Path

    from zarrstream.faults.store import FaultyStore


def test_a_writer_that_was_killed_leaves_nothing_stale_and_the_cache_in_use(
    cache: ChunkCache, slow: FaultyStore
) -> None:
    """Killed between the change and its end: what was read meanwhile is forgotten, and later reads are kept again."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    store = CachedStore(slow, cache)
    place, key = store._place, f"{store._prefix}c/0"

    def die() -> None:
        change = ChunkCache(cache.mapping, max_bytes=1 << 20).changing(place, key)
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


WRITES = """
import sys
from zarr.core.buffer import cpu
from zarrstream import open_store
store = open_store(sys.argv[1], cache=sys.argv[2])
print("begins", flush=True)
store.set_sync("c/0", cpu.Buffer.from_bytes(b"new"))
"""


@pytest.mark.parametrize("held", ["v/*", "i/*", "total"])
@pytest.mark.parametrize("other", ["same", "TMPDIR", "HOME", "folder"])
def test_a_process_in_another_environment_waits_for_who_keeps_a_value(tmp_path: Path, held: str, other: str) -> None:
    """Another TMPDIR, HOME or working folder: the turn is taken at the cache itself, and no read is stale."""
    url, cache_url = f"sqlite:////{tmp_path}/x.db", f"sqlite:////{tmp_path}/cache.db"
    plain = open_store(url)
    plain.set_sync("c/0", buffer(b"old"))  # type: ignore[attr-defined]  # it has it
    slow = FaultyMapping(SQLiteMapping(tmp_path / "cache.db"))
    mine = CachedStore(plain, ChunkCache(slow))
    there = tmp_path / "there"
    there.mkdir()
    environment = {**os.environ, **({other: str(there)} if other.isupper() else {})}
    with ExitStack() as ends:
        with slow.hold("set", held) as keeps:
            reader = threading.Thread(target=mine.get_sync, args=("c/0",))
            reader.start()
            keeps.arrived.result(30)
            assert not ChunkCache(SQLiteMapping(tmp_path / "cache.db"))._lock.run(lambda: True, wait=False)
            writer = ends.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITES, url, cache_url],
                    env=environment,
                    cwd=there if other == "folder" else None,
                    stdout=subprocess.PIPE,
                )
            )
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begins\n"
        reader.join()
        assert writer.wait(60) == 0
    assert content(plain.get_sync("c/0")) == content(mine.get_sync("c/0")) == b"new"  # type: ignore[attr-defined]  # as above
    mine.close()


@pytest.mark.parametrize("operation", ["set", "get"])
def test_a_child_that_was_forked_while_the_lock_was_held_holds_it_not(tmp_path: Path, operation: str) -> None:
    """Neither does it wait for the thread that held it: the parent goes on, and so does the child."""
    slow = FaultyMapping(SQLiteMapping(tmp_path / "cache.db"))
    plain = LocalStore(tmp_path / "plain")
    store = CachedStore(plain, ChunkCache(slow))
    asyncio.run(store.set("c/0", buffer(b"1")))
    ends, told = os.pipe()

    def child() -> None:
        other = CachedStore(plain, ChunkCache(SQLiteMapping(tmp_path / "cache.db")))
        assert os.read(ends, 1) == b"."  # as long as the parent has not been through, it stays
        assert get(other, "c/0") == b"2"

    with slow.hold(operation, "g/*") as held:
        writer = threading.Thread(target=lambda: asyncio.run(store.set("c/0", buffer(b"2"))))
        writer.start()
        held.arrived.result(30)
        pid = forked(child)
    writer.join(30)  # it takes the lock a second time, at the end of the change
    assert not writer.is_alive()
    os.write(told, b".")
    assert os.waitpid(pid, 0)[1] == 0
    for descriptor in (ends, told):
        os.close(descriptor)
    assert get(store, "c/0") == b"2"
    store.close()
