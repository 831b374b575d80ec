"""Any zarr store, traced: it stays the store that it is, and each of its doors is seen."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore
from zarr.testing.store import StoreTests

from tests.streaming.spies import AsyncSpy
from zarrstream import (
    Checkpoint,
    MappingStore,
    StoreUnavailableError,
    open_store,
    stream_chunks,
    telemetry,
    write_stream,
)
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.wrappers.traced import TracedStore
from zarrstream.streaming.transport.stores import SyncTransport, runs_sync
from zarrstream.testing import check_hierarchy_machine, check_store_machine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sight.conftest import Seen

PROTOTYPE = default_buffer_prototype()


class TestTracedStore(StoreTests[TracedStore, cpu.Buffer]):
    """Where nobody listens, and where somebody does, it is the store that it wraps."""

    store_cls = TracedStore
    buffer_cls = cpu.Buffer

    @pytest.fixture(params=[False, True], ids=["unseen", "seen"], autouse=True)
    def _listen(self, request: pytest.FixtureRequest) -> None:
        if request.param:
            request.getfixturevalue("seen")

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store": LocalStore(tmp_path)}

    @pytest.fixture
    def open_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store_cls": LocalStore, "root": tmp_path}

    async def set(self, store: TracedStore, key: str, value: cpu.Buffer) -> None:  # type: ignore[override]
        await store._store.set(key, value)

    async def get(self, store: TracedStore, key: str) -> cpu.Buffer:
        found = await store._store.get(key, PROTOTYPE)
        assert isinstance(found, cpu.Buffer)
        return found

    def test_store_repr(self, store: TracedStore) -> None:
        assert repr(store).startswith("TracedStore(LocalStore(")

    def test_store_supports_writes(self, store: TracedStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: TracedStore) -> None:
        assert store.supports_listing


@pytest.mark.parametrize("listened", [False, True])
def test_both_state_machines_hold(request: pytest.FixtureRequest, listened: bool) -> None:
    """Single keys behave as in a dict, hierarchies as in memory."""
    if listened:
        request.getfixturevalue("seen")
    check_store_machine(TracedStore(MemoryStore()), examples=10, steps=20)
    check_hierarchy_machine(TracedStore(MemoryStore()), examples=10, steps=12)


async def use_every_door(store: Any) -> None:
    """Call all of a store's methods."""
    value = cpu.Buffer.from_bytes(b"0123456789")
    await store.set("a/x", value)
    await store.set_if_not_exists("a/y", value)
    await store._set_many([("a/z", value)])
    await store.get("a/x", PROTOTYPE)
    await store.get("a/none", PROTOTYPE)
    await store.get_partial_values(PROTOTYPE, [("a/x", RangeByteRequest(0, 4)), ("a/y", None)])
    await store.exists("a/x")
    await store.getsize("a/x")
    await store.getsize_prefix("a")
    await store.is_empty("a")
    assert [name async for name in store.list()]
    assert [name async for name in store.list_prefix("a/")]
    assert [name async for name in store.list_dir("a")]
    await store.delete("a/z")
    await store.delete_dir("a")
    await store.clear()


STORES = {
    "memory": (lambda _: MemoryStore(), "memory", None),
    "file": (LocalStore, "file", None),
    "fsspec": (lambda _: FsspecStore.from_url("memory://traced"), "memory", None),
    "sqlite": (lambda folder: MappingStore(SQLiteMapping(folder / "x.db")), "sqlite", "sqlite"),
    "wrapped": (lambda _: FaultyStore(MemoryStore()), "memory", None),
}


@pytest.mark.parametrize("row", STORES)
async def test_every_door_is_a_span_and_a_duration(seen: Seen, row: str, tmp_path: Path) -> None:
    """With operation, kind of store and key; a database says which; nothing failed."""
    make, kind, database = STORES[row]
    store = TracedStore(make(tmp_path))
    await use_every_door(store)
    told = [span.attributes["zarrstream.store.operation"] for span in seen.spans()]
    for operation in (
        *("set", "set_if_not_exists", "set_many", "get", "get_partial_values", "exists", "getsize", "getsize_prefix"),
        *("is_empty", "list", "list_prefix", "list_dir", "delete", "delete_dir", "clear"),
    ):
        assert told.count(operation) == (2 if operation == "get" else 1), operation
        assert seen.total("zarrstream.store.operation.duration", store_operation=operation) == told.count(operation)
        span = seen.spans(f"zarrstream.store.{operation}")[0]
        assert span.attributes["zarrstream.store"] == kind
        assert span.attributes.get("db.system.name") == database
        assert span.attributes.get("db.operation.name") == (database and operation)
    assert all(span.status.is_unset for span in seen.spans())
    assert [span.attributes["zarrstream.store.missing"] for span in seen.spans("zarrstream.store.get")] == [False, True]
    assert seen.spans("zarrstream.store.get")[0].attributes["zarrstream.store.bytes"] == 10
    assert seen.span("zarrstream.store.set").attributes["zarrstream.store.bytes"] == 10
    assert seen.span("zarrstream.store.list_dir").attributes["zarrstream.store.keys"] == 3
    store.close()


if hasattr(Store, "get_ranges"):  # zarr 3.2 and later

    async def test_ranges_are_the_requests_that_they_become(seen: Seen) -> None:
        """Neighbours are merged as zarr merges them, and what is left is seen: one request here."""
        store = TracedStore(MemoryStore())
        await store.set("x", cpu.Buffer.from_bytes(bytes(100)))
        wanted = [RangeByteRequest(0, 10), RangeByteRequest(10, 20), OffsetByteRequest(90)]
        found = {}
        async for group in store.get_ranges("x", wanted, prototype=PROTOTYPE):
            found.update(group)
        assert [len(found[at]) for at in range(3)] == [10, 10, 10]
        assert len(seen.spans("zarrstream.store.get")) == 2
        assert [len(value) for _, value in store.get_ranges_sync("x", wanted, prototype=PROTOTYPE)] == [10, 10, 10]


def test_the_synchronous_doors_are_there_where_the_store_has_them(seen: Seen, tmp_path: Path) -> None:
    """A traced store streams as the plain one does: in threads, in its batches, or on the loop."""
    sqlite = TracedStore(MappingStore(SQLiteMapping(tmp_path / "x.db")))
    assert runs_sync(sqlite)
    assert not runs_sync(TracedStore(AsyncSpy()))
    assert SyncTransport(sqlite).put_many is not None
    plain = SyncTransport(TracedStore(MemoryStore()))
    assert plain.put_many is plain.get_many is None
    array = zarr.create_array(sqlite, shape=(64,), chunks=(1,), dtype="i4", fill_value=-1)
    write_stream(array, (((number,), np.full(1, number, "i4")) for number in range(64)))
    assert [int(chunk.data[0]) for chunk in stream_chunks(array)] == list(range(64))
    written = sum(span.attributes["zarrstream.store.keys"] for span in seen.spans("zarrstream.store.set_many"))
    alone = [
        span for span in seen.spans("zarrstream.store.set") if "/c/" in f"/{span.attributes['zarrstream.store.key']}"
    ]
    assert written + len(alone) == 64
    sqlite.close()


async def test_a_failure_is_told_and_an_absent_key_is_none(seen: Seen) -> None:
    """`error.type` and status on failure alone; the size of what is not there is no failure, nor is being cancelled."""
    store = TracedStore(
        FaultyStore(MemoryStore(), Fault(kind="error", operation="get", key="bad", error=ConnectionResetError))
    )
    with pytest.raises(ConnectionResetError):
        await store.get("bad", PROTOTYPE)
    with pytest.raises(FileNotFoundError):
        await store.getsize("none")
    failed, absent = seen.span("zarrstream.store.get"), seen.span("zarrstream.store.getsize")
    assert failed.attributes["error.type"] == "ConnectionResetError"
    assert [event.attributes["exception.type"] for event in failed.events] == ["ConnectionResetError"]
    assert absent.status.is_unset
    assert absent.attributes["zarrstream.store.missing"] is True
    assert seen.total("zarrstream.store.operation.duration", error_type="ConnectionResetError") == 1


async def test_the_error_of_a_store_is_its_own(seen: Seen) -> None:
    """`error.type` of an operation is what the store raised, whatever a driver had raised before."""

    def raised(message: str) -> Exception:
        error = StoreUnavailableError(message)
        error.__cause__ = ConnectionResetError("the driver's")
        return error

    store = TracedStore(FaultyStore(MemoryStore(), Fault(kind="error", operation="get", error=raised)))
    with pytest.raises(StoreUnavailableError):
        await store.get("x", PROTOTYPE)
    assert seen.span("zarrstream.store.get").attributes["error.type"] == "zarrstream.errors.StoreUnavailableError"


async def test_a_cancelled_call_is_no_failure(seen: Seen) -> None:
    """Whoever cancels it knows; the span ends, and says nothing of an error."""
    store, entered = AsyncSpy(), asyncio.Event()

    async def hold(*_: str) -> None:
        entered.set()
        await asyncio.Event().wait()

    store.hook = hold
    waiting = asyncio.create_task(TracedStore(store).get("x", PROTOTYPE))
    await entered.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert seen.span("zarrstream.store.get").status.is_unset


async def test_attempts_and_a_cache_are_noted(seen: Seen) -> None:
    """What a store below tells of its retries and of its cache is on the operation's span."""

    class Insistent(MemoryStore):
        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            telemetry.retried("get", "memory")
            telemetry.cache_asked(False)
            return await super().get(key, prototype, byte_range)

    await TracedStore(Insistent()).get("x", PROTOTYPE)
    about = seen.span("zarrstream.store.get").attributes
    assert (about["zarrstream.attempts"], about["zarrstream.cache.hit"]) == (2, False)


def test_a_listing_that_is_left_is_told(seen: Seen) -> None:
    """What a listing had told when it was left is its count; nothing of it stays current."""

    async def leave() -> None:
        store = TracedStore(MemoryStore())
        for number in range(5):
            await store.set(f"{number}", cpu.Buffer.from_bytes(b"x"))
        names = store.list()
        await anext(names)
        from opentelemetry import trace

        assert not trace.get_current_span().get_span_context().is_valid
        await names.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert seen.span("zarrstream.store.list").attributes["zarrstream.store.keys"] == 1


def test_what_else_a_store_offers_is_reached(seen: Seen, tmp_path: Path) -> None:
    """A checkpoint finds the place; pickles and copies for reading are traced, too."""
    store = TracedStore(MappingStore(SQLiteMapping(tmp_path / "x.db")))
    assert store.place == MappingStore(SQLiteMapping(tmp_path / "x.db")).place
    array = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert write_stream(array, [((0,), np.ones(2, "i4"))], checkpoint=checkpoint).written == 1
    assert write_stream(array, [((0,), np.ones(2, "i4"))], checkpoint=checkpoint).skipped == 1
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    reading = store.with_read_only(True)
    assert isinstance(reading, TracedStore)
    assert reading.read_only
    seen.forget()
    reading.get_sync("zarr.json")
    again.get_sync("zarr.json")
    assert len(seen.spans("zarrstream.store.get")) == 2
    with pytest.raises(AttributeError):
        _ = store.nothing_of_the_kind
    for each in (again, store):
        each.close()


def test_transactions_are_traced(seen: Seen) -> None:
    """What goes through a transaction or snapshot of the store is seen, too."""

    class Transactional(MemoryStore):
        def transaction(self) -> Any:
            from contextlib import nullcontext

            return nullcontext(self)

        def in_transaction(self, work: Any, attempts: int = 5) -> Any:
            return work(self), attempts

    store = TracedStore(Transactional())
    with store.transaction() as bound:
        bound.set_sync("x", cpu.Buffer.from_bytes(b"x"))
    assert store.in_transaction(lambda bound: bound.get_sync("x").to_bytes(), attempts=2) == (b"x", 2)
    assert [span.name for span in seen.spans()] == ["zarrstream.store.set", "zarrstream.store.get"]


def test_open_store_traces_where_it_is_told_to(seen: Seen, tmp_path: Path) -> None:
    """`trace=True` puts it around whatever the URL names."""
    store = open_store(f"sqlite:///{tmp_path}/x.db", trace=True)
    assert isinstance(store, TracedStore)
    zarr.create_array(store, shape=(4,), dtype="i4")
    assert seen.spans("zarrstream.store.set")
    assert not isinstance(open_store(f"sqlite:///{tmp_path}/x.db"), TracedStore)
    store.close()
