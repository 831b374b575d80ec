"""The mock around any zarr store, by itself, under streams, and by URL."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import collect_aiterator
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.store import StoreTests

from tests.streaming.spies import AsyncSpy
from zarrstream import MappingStore, StoreUnavailableError, open_store, stream_chunks, write_stream
from zarrstream.errors import ChunkReadError, ChunkTimeoutError, StoreOptionError
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.testing import check_hierarchy_machine, check_store_machine

if TYPE_CHECKING:
    from pathlib import Path


class TestFaultyStore(StoreTests[FaultyStore, cpu.Buffer]):
    """Without faults the mock is the store that it wraps."""

    store_cls = FaultyStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store": LocalStore(tmp_path)}

    @pytest.fixture
    def open_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store_cls": LocalStore, "root": tmp_path}

    async def set(self, store: FaultyStore, key: str, value: cpu.Buffer) -> None:  # type: ignore[override]
        await store._store.set(key, value)

    async def get(self, store: FaultyStore, key: str) -> cpu.Buffer:
        found = await store._store.get(key, default_buffer_prototype())
        assert isinstance(found, cpu.Buffer)
        return found

    def test_store_repr(self, store: FaultyStore) -> None:
        assert repr(store).startswith("FaultyStore(LocalStore(")

    def test_store_supports_writes(self, store: FaultyStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: FaultyStore) -> None:
        assert store.supports_listing


def test_both_state_machines_hold() -> None:
    """Single keys behave as in a dict, hierarchies as in memory."""
    check_store_machine(FaultyStore(MemoryStore()), examples=10, steps=20)
    check_hierarchy_machine(FaultyStore(MemoryStore()), examples=10, steps=12)


def array_in(store: Any) -> zarr.Array:
    array = zarr.create_array(store, name="a", shape=(40,), chunks=(4,), dtype="i4")
    array[...] = np.arange(40) + 1
    return array


@pytest.mark.parametrize("inner", [MemoryStore, AsyncSpy], ids=["sync", "awaited"])
def test_streams_meet_its_faults(inner: Any) -> None:
    """A failed read names its chunk, a spoilt value is refused, a retry mends: on either kind of store."""
    store = FaultyStore(inner())
    array = array_in(store)
    assert store.count("set", "a/c/*") == 10
    store.inject(Fault(kind="error", operation="get", key="a/c/3"))
    with pytest.raises(ChunkReadError, match="injected") as caught:
        list(stream_chunks(array))
    assert caught.value.index == (3,)
    store.mend()
    store.inject(Fault(kind="truncated-value", operation="get", key="a/c/4", nth=1))
    chunks = list(stream_chunks(array, on_error=lambda _: "retry"))
    assert np.concatenate([chunk.data for chunk in chunks]).tolist() == list(range(1, 41))
    assert store.count("get", "a/c/4") >= 2


@pytest.mark.parametrize("inner", [MemoryStore, AsyncSpy], ids=["sync", "awaited"])
def test_a_hang_ends_in_a_time_out_that_names_the_chunk(inner: Any) -> None:
    """A store that never answers is given up; what hangs is let go at the end."""
    store = FaultyStore(inner())
    array = array_in(store)
    store.inject(Fault(kind="hang", operation="get", key="a/c/5"))
    with pytest.raises(ChunkTimeoutError, match=r"chunk \(5,\)"):
        list(stream_chunks(array, timeout=2))
    store.mend()


def test_a_lost_acknowledgement_is_written_twice_and_stays_once() -> None:
    """The write had its effect; tried again it has the same."""
    store = FaultyStore(MemoryStore())
    array = zarr.create_array(store, name="a", shape=(40,), chunks=(4,), dtype="i4")
    store.inject(Fault(kind="lost-acknowledgement", operation="set", key="a/c/2", nth=1))
    source = [((number,), np.full(4, number + 1, "i4")) for number in range(10)]
    report = write_stream(array, source, on_error=lambda _: "retry")
    assert (report.written, store.count("set", "a/c/2")) == (10, 2)
    assert array[...].tolist() == [number // 4 + 1 for number in range(40)]


async def test_what_waits_is_cancelled_with_its_task() -> None:
    """A cancelled call goes, and releases nobody else."""
    store = FaultyStore(MemoryStore())
    await store.set("k", cpu.Buffer.from_bytes(b"1"))
    held = store.hold("get")
    tasks = [asyncio.ensure_future(store.get("k")) for _ in range(2)]
    assert await asyncio.wrap_future(held.arrived) == ("get", "k")
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert not tasks[1].done()
    held.release()
    found = await tasks[1]
    assert found is not None
    assert found.to_bytes() == b"1"
    assert [call.outcome for call in store.calls] == ["ok", "CancelledError", "ok"]


async def test_a_stale_listing_of_a_store() -> None:
    """Keys and names are listed as they were."""
    store = FaultyStore(MemoryStore(), Fault(kind="stale-listing", operation="list", nth=1))
    await store.set("a/b", cpu.Buffer.from_bytes(b"1"))
    assert [key async for key in store.list()] == []
    assert [key async for key in store.list()] == ["a/b"]
    store.inject(Fault(kind="stale-listing", operation="list"))
    await store.set("c/d", cpu.Buffer.from_bytes(b"1"))
    assert [name async for name in store.list_dir("")] == ["a"]


def test_by_url_it_lies_under_a_mapping_store_and_around_any_other(tmp_path: Path) -> None:
    """``faulty+`` stands before any URL, path or scheme; faults and seed are options."""
    store = open_store(f"faulty+sqlite:////{tmp_path}/x.db", faults=[Fault(kind="error", key="bad")], durability="off")
    assert isinstance(store, MappingStore)
    assert isinstance(store.mapping, FaultyMapping)
    with pytest.raises(StoreUnavailableError):
        store.set_sync("bad", cpu.Buffer.from_bytes(b"1"))
    store.close()
    around = open_store(f"faulty+{tmp_path}/folder", read_only=True)
    assert isinstance(around, FaultyStore)
    assert around.read_only
    assert isinstance(open_store("faulty+memory://faulty-test"), FaultyStore)
    by_parts = open_store("faulty+sqlite", path=tmp_path / "x.db", seed=3)
    assert by_parts.place == store.place
    by_parts.close()
    with pytest.raises(StoreOptionError, match="'sqlite'"):
        open_store("faulty+sqlit:///x.db")


def test_a_copy_for_reading_shares_faults_and_calls(tmp_path: Path) -> None:
    """`with_read_only` is the same place; a pickle is another process's, with the faults and no calls."""
    store = FaultyStore(LocalStore(tmp_path), Fault(kind="error", operation="list"))
    reader = store.with_read_only(read_only=True)
    assert reader.read_only
    store.set_sync("k", cpu.Buffer.from_bytes(b"1"))
    assert reader.count("set") == 1
    copy = pickle.loads(pickle.dumps(store))
    assert copy.count() == 0
    with pytest.raises(StoreUnavailableError):
        zarr.core.sync.sync(collect_aiterator(copy.list()))
