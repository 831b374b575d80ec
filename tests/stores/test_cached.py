"""A cache in front of a store: nothing stale, nothing false, bounded over processes; equal misses are one request."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import MemoryStore

from tests.optional import require
from tests.values import PROTOTYPE, buffer, content, get
from zarrstream import MappingStore, open_store, stream_chunks, write_stream
from zarrstream.errors import StoreOptionError, StoreUnavailableError
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import Fault
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.wrappers.cached import CachedStore
from zarrstream.stores.wrappers.chunk_cache import ChunkCache
from zarrstream.testing import check_hierarchy_machine, check_store_machine

if TYPE_CHECKING:
    from pathlib import Path

    from zarrstream.faults.store import FaultyStore

KEYS = tuple(f"c/{number}" for number in range(6))


def test_a_chunk_is_fetched_once_by_all_who_share_the_cache(cache: ChunkCache, slow: FaultyStore) -> None:
    """Ranges are kept as such, and metadata, and what is missing, not at all."""
    asyncio.run(slow.set("c/0", buffer(b"0123456789")))
    asyncio.run(slow.set("zarr.json", buffer(b"{}")))
    first, second = CachedStore(slow, cache), CachedStore(slow, pickle.loads(pickle.dumps(cache)))
    first._place = second._place = "slow"
    for store in (first, second, first):
        assert get(store, "c/0") == b"0123456789"
        assert get(store, "c/0", RangeByteRequest(2, 4)) == b"23"
        assert get(store, "zarr.json") == b"{}"
        assert get(store, "c/1") is None
    assert slow.count("get", "c/0") == 2
    assert slow.count("get", "zarr.json") == 3
    assert slow.count("get", "c/1") == 3
    second.cache.close()


@pytest.mark.parametrize("wanted", [RangeByteRequest(2, 4), SuffixByteRequest(2)])
def test_more_than_was_asked_for_is_not_kept(cache: ChunkCache, wanted: Any) -> None:
    """Of a store that answers a range with the whole object nothing stays."""

    class Whole(MemoryStore):
        asked: Any = None

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            self.asked = byte_range
            return await super().get(key, prototype)

    inner = Whole()
    store = CachedStore(inner, cache)
    asyncio.run(inner.set("c/0", buffer(b"0123456789")))
    for _ in range(2):
        get(store, "c/0", wanted)
        assert inner.asked == wanted
        inner.asked = None


def test_a_failure_is_not_kept_and_nobody_elses(cache: ChunkCache, slow: FaultyStore) -> None:
    asyncio.run(slow.set("c/0", buffer(b"1")))
    slow.inject(Fault(kind="error", operation="get", nth=1))
    store = CachedStore(slow, cache)
    with pytest.raises(StoreUnavailableError):
        get(store, "c/0")
    assert get(store, "c/0") == b"1"


def test_equal_misses_of_one_moment_are_one_request(cache: ChunkCache, slow: FaultyStore) -> None:
    """Over the tasks of one loop, and over threads with loops of their own; who is cancelled takes nothing away."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    store = CachedStore(slow, cache)
    held = slow.hold("get", "c/0")
    found: list[bytes | None] = []
    asked = threading.Semaphore(0)

    async def many() -> None:
        tasks = [asyncio.ensure_future(store.get("c/0", PROTOTYPE)) for _ in range(8)]
        await asyncio.sleep(0)
        tasks[5].cancel()
        asked.release()
        found.extend(
            content(value) for value in await asyncio.gather(*tasks, return_exceptions=True) if value_is(value)
        )

    def value_is(value: Any) -> bool:
        return not isinstance(value, BaseException)

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    held.arrived.result(30)
    assert all(asked.acquire(timeout=30) for _ in threads)  # before the answer, which who comes late would find kept
    held.release()
    for thread in threads:
        thread.join()
    assert slow.count("get", "c/0") == 1
    assert found == [b"1"] * 28


class NoStaleRead(RuleBasedStateMachine):
    """Two stores on one cache and one place, every mutator and read: never anything but what a dict would hold."""

    @initialize()
    def begin(self) -> None:
        self.inner = MemoryStore()
        mapping = SQLiteMapping(f"cache-{os.getpid()}.db", durability="off")
        mapping.clear()
        self.cache = ChunkCache(mapping, max_bytes=72)
        self.stores = [CachedStore(self.inner, self.cache) for _ in range(2)]
        self.stores[1]._place = self.stores[0]._place
        self.model: dict[str, bytes] = {}

    which = st.integers(0, 1)
    keys = st.sampled_from(KEYS)
    values = st.binary(max_size=20)

    @rule(which=which, key=keys, value=values, verb=st.sampled_from(["set", "sync", "many", "new"]))
    def write(self, which: int, key: str, value: bytes, verb: str) -> None:
        store: Any = self.stores[which].with_read_only(read_only=False)
        if verb == "set":
            asyncio.run(store.set(key, buffer(value)))
        elif verb == "sync":
            store.set_sync(key, buffer(value))
        elif verb == "many":
            asyncio.run(store._set_many([(key, buffer(value))]))
        else:
            asyncio.run(store.set_if_not_exists(key, buffer(value)))
            value = self.model.get(key, value)
        self.model[key] = value

    @rule(which=which, key=keys, verb=st.sampled_from(["delete", "sync", "dir", "clear"]))
    def remove(self, which: int, key: str, verb: str) -> None:
        store: Any = self.stores[which]
        if verb == "delete":
            asyncio.run(store.delete(key))
        elif verb == "sync":
            store.delete_sync(key)
        elif verb == "dir":
            asyncio.run(store.delete_dir("c"))
            self.model.clear()
        else:
            asyncio.run(store.clear())
            self.model.clear()
        self.model.pop(key, None)

    @rule(which=which, key=keys, verb=st.sampled_from(["get", "sync", "part", "read-only"]))
    def read(self, which: int, key: str, verb: str) -> None:
        store: Any = self.stores[which]
        expected = self.model.get(key)
        if verb == "sync":
            assert content(store.get_sync(key)) == expected
        elif verb == "part":
            assert get(store, key, RangeByteRequest(1, 3)) == (None if expected is None else expected[1:3])
        else:
            source = store.with_read_only(read_only=True) if verb == "read-only" else store
            assert get(source, key) == expected
        kept = [value for name, value in self.cache.mapping.items() if name.startswith("v/")]
        assert sum(map(len, kept)) <= 72

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()


def test_no_read_is_stale_and_the_bound_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rules = settings(max_examples=settings().max_examples, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(NoStaleRead, settings=rules)  # type: ignore[no-untyped-call]


def test_both_of_zarrs_state_machines_hold(cache: ChunkCache) -> None:
    check_store_machine(CachedStore(MemoryStore(), cache), examples=8, steps=20)
    check_hierarchy_machine(CachedStore(MemoryStore(), cache), examples=4, steps=10)


@pytest.mark.parametrize("change", ["set", "delete_dir"])
def test_what_was_fetched_before_a_change_is_not_kept_after_it(
    cache: ChunkCache, slow: FaultyStore, change: str
) -> None:
    """The reader has the old value in hand when the writer is done; the next reader sees the new one."""
    asyncio.run(slow.set("c/0", buffer(b"old")))
    reader = CachedStore(slow, cache)
    writer = reader.with_read_only(read_only=False)
    read = threading.Event()
    written = threading.Event()
    fetch = slow.get

    async def late(*args: Any) -> Any:
        value = await fetch(*args)
        read.set()
        await asyncio.to_thread(written.wait)
        return value

    slow.get = late  # type: ignore[method-assign]
    found: list[bytes | None] = []
    thread = threading.Thread(target=lambda: found.append(get(reader, "c/0")))
    thread.start()
    read.wait()
    slow.get = fetch  # type: ignore[method-assign]
    if change == "set":
        asyncio.run(writer.set("c/0", buffer(b"new")))
        assert get(writer, "c/0") == b"new"  # and joins no flight that began before
    else:
        asyncio.run(writer.delete_dir("c"))
        assert get(writer, "c/0") is None
    written.set()
    thread.join()
    assert found == [b"old"]
    assert get(reader, "c/0") == (b"new" if change == "set" else None)


def test_what_is_read_in_the_midst_of_a_change_is_not_kept(cache: ChunkCache, slow: FaultyStore) -> None:
    asyncio.run(slow.set("c/0", buffer(b"old")))
    store = CachedStore(slow, cache)
    with cache.changing(store._place, f"{store._prefix}c/0"):
        assert get(store, "c/0") == b"old"
        assert get(store, "c/0") == b"old"
    assert slow.count("get", "c/0") == 2


def test_what_was_used_least_recently_goes_first(cache: ChunkCache, slow: FaultyStore) -> None:
    cache.max_bytes = 190  # five values of 20 bytes, with the 16 that say whether each is whole
    for key in KEYS:
        asyncio.run(slow.set(key, buffer(b"x" * 20)))
    store = CachedStore(slow, cache)
    for key in (*KEYS[:4], KEYS[0], KEYS[4], KEYS[5]):
        get(store, key)
    before = slow.count("get")
    get(store, KEYS[0])
    assert slow.count("get") == before
    get(store, KEYS[1])
    assert slow.count("get") == before + 1


def test_a_cache_that_fails_is_done_without(tmp_path: Path, slow: FaultyStore, caplog: Any) -> None:
    """A full or broken cache is no reason to have no data; it is logged once."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    mapping = FaultyMapping(SQLiteMapping(tmp_path / "cache.db"), Fault(kind="error", operation="*"))
    store = CachedStore(slow, ChunkCache(mapping))
    assert [get(store, "c/0"), get(store, "c/0")] == [b"1", b"1"]
    assert caplog.text.count("is done without") == 1
    mapping.mend()
    store.cache.close()


def test_a_write_goes_on_without_a_cache_that_cannot_forget_the_old_value(tmp_path: Path, slow: FaultyStore) -> None:
    """The cache's epoch ends: whoever reads through it, with whatever store, reads what was written."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    mapping = FaultyMapping(SQLiteMapping(tmp_path / "cache.db"))
    store = CachedStore(slow, ChunkCache(mapping))
    assert get(store, "c/0") == b"1"
    mapping.inject(Fault(kind="error", operation="set"))
    asyncio.run(store.set("c/0", buffer(b"2")))
    mapping.mend()
    other = CachedStore(slow, ChunkCache(mapping.inner))
    other._place = store._place
    assert [get(store, "c/0"), get(other, "c/0")] == [b"2", b"2"]
    store.cache.close()


def test_a_write_is_refused_where_others_would_go_on_to_read_the_old_value(
    tmp_path: Path, slow: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache can be told nothing, and neither can its epoch be ended: the error says what to remove."""
    asyncio.run(slow.set("c/0", buffer(b"1")))
    mapping = FaultyMapping(SQLiteMapping(tmp_path / "cache.db"))
    store = CachedStore(slow, ChunkCache(mapping))
    assert get(store, "c/0") == b"1"
    mapping.inject(Fault(kind="error", operation="set"))

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", read_only)
    monkeypatch.setattr(os, "unlink", read_only)
    with pytest.raises(StoreUnavailableError, match=r"make it writable, or remove it together with .*zarrstream-cache"):
        asyncio.run(store.set("c/0", buffer(b"2")))
    monkeypatch.undo()
    mapping.mend()
    assert get(store, "c/0") == get(slow, "c/0") == b"1"
    store.cache.close()


@pytest.mark.parametrize("kind", ["sqlite", "lmdb", "shm"])
def test_arrays_stream_through_a_cache_by_url(kind: str, tmp_path: Path, shm_name: str) -> None:
    """The second pass reads nothing but metadata from the slow place; what is written through is seen."""
    if kind != "sqlite":
        require("lmdb")
    url = {"sqlite": f"sqlite:////{tmp_path}/c.db", "lmdb": f"lmdb:////{tmp_path}/c", "shm": f"shm://{shm_name}"}[kind]
    store: Any = open_store(f"faulty+sqlite:////{tmp_path}/slow.db", cache=url)
    array = zarr.create_array(store, shape=(64, 8), chunks=(4, 8), dtype="i4", name="x")
    write_stream(array, (((number, 0), np.full((4, 8), number + 1, "i4")) for number in range(16)))
    slow = store._store.mapping
    passes = []
    for _ in range(3):
        before = slow.count("get", "x/c/*")
        assert sum(int(chunk.data[0, 0]) for chunk in stream_chunks(array)) == sum(range(1, 17))
        passes.append(slow.count("get", "x/c/*") - before)
    assert passes == [16, 0, 0]
    array[:4] = 100
    assert int(array[0, 0]) == 100
    assert "CachedStore(" in repr(store)
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    copy.close()
    if kind == "shm":
        store.cache.mapping.destroy()
    store.close()


def test_a_cache_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreOptionError, match="max_bytes"):
        ChunkCache(SQLiteMapping(tmp_path / "x.db"), max_bytes=0)
    with pytest.raises(StoreOptionError, match="not in"):
        ChunkCache({})  # type: ignore[arg-type]  # that is the mistake
    store = open_store(f"{tmp_path}/data", cache=MappingStore(SQLiteMapping(tmp_path / "x.db")))
    assert isinstance(store, CachedStore)
    store.close()
