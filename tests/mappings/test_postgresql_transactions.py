"""Transactions and snapshots: what goes through the bound store is one commit; a snapshot shows one version."""

# ruff: noqa: F811, PT012  # fixtures are imported, and asked for by name; a transaction raises at its end, too

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.postgresql_tables import admin, mapping, psycopg, table  # noqa: F401  # fixtures
from tests.processes import in_child, move_amounts
from zarrstream import (
    Checkpoint,
    ChunkWriteError,
    MappingStore,
    StoreAccessError,
    StoreError,
    StoreOptionError,
    StoreUnavailableError,
    TransactionConflictError,
    ZarrStreamError,
    open_store,
    stream_chunks,
    write_stream,
)

if TYPE_CHECKING:
    from pathlib import Path

    from zarrstream.mappings.postgresql import PostgreSQLMapping

pytestmark = pytest.mark.server


@pytest.fixture
def store(mapping: PostgreSQLMapping) -> MappingStore:
    return MappingStore(mapping)


def test_an_array_and_its_chunks_are_one_commit(store: MappingStore) -> None:
    """A reader sees none of it or all, though zarr writes from threads of its own, into a table that is not there."""
    with store.transaction() as tx:
        array = zarr.create_array(tx, shape=(40, 40), chunks=(5, 5), dtype="i4", fill_value=0)
        array[:] = 7
        assert np.all(array[:] == 7)
        assert sorted(tx.mapping.children("")) == ["c", "zarr.json"]
        assert not store.mapping
    assert len(store.mapping) == 65
    assert np.all(zarr.open_array(store, mode="r")[:] == 7)


def test_an_exception_takes_everything_back(store: MappingStore) -> None:
    store.mapping["k"] = b"before"

    class StopError(Exception):
        pass

    with pytest.raises(StopError), store.transaction() as tx:
        tx.mapping["k"] = b"after"
        tx.mapping.update_many((f"{number}", b"") for number in range(200))
        tx.mapping.update_many((f"{number}", b"x") for number in range(100))
        assert tx.mapping["7"] == b"x"
        assert len(tx.mapping) == 201
        raise StopError
    assert dict(store.mapping.items()) == {"k": b"before"}


def test_a_snapshot_shows_one_version_throughout(store: MappingStore) -> None:
    array = zarr.create_array(store, shape=(40,), chunks=(5,), dtype="i4", fill_value=0)
    array[:] = 1
    with store.snapshot() as snap:
        seen = zarr.open_array(snap, mode="r")
        array[:] = 2
        store.mapping["more"] = b""
        assert np.all(seen[:] == 1)
        assert "more" not in snap.mapping
        assert [int(chunk.data[0]) for chunk in stream_chunks(seen)] == [1] * 8
    assert np.all(zarr.open_array(store, mode="r")[:] == 2)


def test_a_snapshot_before_the_table_is_empty_and_stays_so(store: MappingStore) -> None:
    with store.snapshot() as snap:
        store.mapping["k"] = b"1"
        assert not snap.mapping
        assert snap.mapping.get("k") is None
    with store.snapshot() as snap:
        assert snap.mapping["k"] == b"1"


def test_a_snapshot_is_not_written_to(store: MappingStore) -> None:
    store.mapping["k"] = b"1"
    with store.snapshot() as snap:
        assert snap.read_only
        with pytest.raises(ValueError, match="read-only"):
            zarr.create_array(snap, shape=(4,), dtype="i4")
        with pytest.raises(StoreAccessError, match="snapshot"):
            snap.mapping["k"] = b"2"
        with pytest.raises(StoreAccessError, match="snapshot"):
            snap.mapping.get("k")  # what failed has ended the transaction
    assert store.mapping["k"] == b"1"


def test_two_that_read_what_the_other_writes_are_in_conflict(store: MappingStore) -> None:
    """Each alone is right; one after the other would have seen the other's: that is what SERIALIZABLE means."""
    store.mapping.update_many({"a": b"1", "b": b"1"})
    with pytest.raises(TransactionConflictError, match="in_transaction"), store.transaction() as one:
        with store.transaction() as other:
            assert (one.mapping["a"], other.mapping["b"]) == (b"1", b"1")
            one.mapping["b"] = b"0"
            other.mapping["a"] = b"0"
        one.mapping["c"] = b"never"
    assert dict(store.mapping.items()) == {"a": b"0", "b": b"1"}


def test_those_that_touch_other_chunks_are_not_in_conflict(store: MappingStore, admin: Any, table: str) -> None:
    """However small the table: PostgreSQL would read it whole, and all that it reads counts."""
    store.mapping.update_many({f"k{number}": b"1" for number in range(20)})
    admin.execute(f"ANALYZE {table}")
    for number in range(0, 20, 2):
        with store.transaction() as one, store.transaction() as other:
            for tx, key in ((one, f"k{number}"), (other, f"k{number + 1}")):
                assert tx.mapping[key] == b"1"
                tx.mapping[key] = b"2"
    assert set(store.mapping.values()) == {b"2"}


def test_a_conflict_is_run_again_as_often_as_said(store: MappingStore) -> None:
    store.mapping["k"] = b"0"
    calls = []

    def work(tx: MappingStore) -> str:
        calls.append(tx)
        value = tx.mapping["k"]
        if len(calls) < 3:
            store.mapping["k"] = value + b"0"
        tx.mapping["k"] = b"1"
        return "done"

    with pytest.raises(TransactionConflictError):
        store.in_transaction(work, attempts=2)
    assert len(calls) == 2
    assert store.in_transaction(work) == "done"
    assert store.mapping["k"] == b"1"
    with pytest.raises(StoreOptionError, match="attempts"):
        store.in_transaction(work, attempts=0)


def test_a_conflict_stays_one_whatever_it_is_wrapped_in(store: MappingStore) -> None:
    """A stream makes a ChunkWriteError of it, and a transaction goes on by nothing else than being run again."""
    zarr.create_array(store, shape=(4,), chunks=(4,), dtype="i4", fill_value=0)[:] = 1
    with pytest.raises(TransactionConflictError) as caught, store.transaction() as tx:
        array = zarr.open_array(tx, mode="r+")
        assert array[0] == 1
        store.mapping["c/0"] = store.mapping["c/0"]
        write_stream(array, [((0,), np.full(4, 2, "i4"))])
    assert isinstance(caught.value.__cause__, ChunkWriteError)


def test_a_failure_that_was_swallowed_is_no_commit(store: MappingStore) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK then, without an error."""
    store.mapping["k"] = b"0"
    with pytest.raises(TransactionConflictError), store.transaction() as tx:
        tx.mapping["other"] = b"1"
        assert tx.mapping["k"] == b"0"
        store.mapping["k"] = b"1"
        with pytest.raises(TransactionConflictError):
            tx.mapping["k"] = b"2"
        with pytest.raises(TransactionConflictError):
            tx.mapping.get("k")
    assert dict(store.mapping.items()) == {"k": b"1"}


def test_threads_share_a_transaction(store: MappingStore) -> None:
    together = threading.Barrier(8)

    def work(number: int) -> None:
        together.wait()
        for key in range(20):
            tx.mapping[f"{number}/{key}"] = b"%d" % key
            assert tx.mapping[f"{number}/{key}"] == b"%d" % key

    with store.transaction() as tx, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
        assert not store.mapping
    assert len(store.mapping) == 160


def test_a_transaction_that_is_over_is_an_error(store: MappingStore) -> None:
    for begin in (store.transaction, store.snapshot):
        with begin() as bound:
            bound.mapping.get("k")
        for ask in (lambda m: m.get("k"), list, lambda m: m.update_many([("k", b"1")])):
            with pytest.raises(StoreError, match="is over"):
                ask(bound.mapping)
    assert not store.mapping


def test_closing_the_bound_store_ends_nothing(store: MappingStore) -> None:
    with store.transaction() as tx:
        tx.mapping["k"] = b"1"
        tx.close()
        tx.with_read_only(read_only=True).close()
        assert tx.mapping["k"] == b"1"
    assert store.mapping["k"] == b"1"


def test_closing_the_store_ends_with_its_transactions(store: MappingStore) -> None:
    with store.transaction() as tx:
        tx.mapping["k"] = b"1"
        store.close()
    assert store.mapping["k"] == b"1"


def test_neither_pickles(store: MappingStore) -> None:
    for begin in (store.transaction, store.snapshot):
        with begin() as bound, pytest.raises(StoreOptionError, match="cannot be pickled"):
            pickle.dumps(bound)


def test_it_has_no_place_and_equals_no_other(store: MappingStore) -> None:
    with store.transaction() as one, store.transaction() as other:
        assert one.place is None
        assert one != other
        assert one != store
        assert not one.durable_on_write


def test_it_belongs_to_the_process_that_began_it(store: MappingStore) -> None:
    """A forked child can neither use nor end it, and leaves the parent's connection alone."""
    with store.transaction() as tx:
        tx.mapping["k"] = b"1"

        def work() -> None:
            with pytest.raises(StoreError, match="belongs to the process"):
                tx.mapping.get("k")
            assert not store.mapping

        in_child(work)
        assert tx.mapping["k"] == b"1"
    assert store.mapping["k"] == b"1"


def test_a_read_only_store_has_snapshots_alone(store: MappingStore) -> None:
    store.mapping["k"] = b"1"
    reader = store.with_read_only(read_only=True)
    with reader.snapshot() as snap:
        assert snap.mapping["k"] == b"1"
    with pytest.raises(ValueError, match="read-only"):
        reader.transaction()


def test_others_say_which_stores_have_them(tmp_path: Path) -> None:
    for made in (MappingStore({}), open_store(f"sqlite:///{tmp_path}/x.db")):
        assert isinstance(made, MappingStore)
        for begin in (made.transaction, made.snapshot, lambda made=made: made.in_transaction(len)):  # type: ignore[misc]
            with pytest.raises(TypeError, match="postgresql://"):
                begin()


def test_a_server_that_goes_away_in_the_midst_is_an_error_and_nothing_is_stored(
    store: MappingStore, admin: Any
) -> None:
    store.mapping["k"] = b"0"
    with pytest.raises(StoreUnavailableError), store.transaction() as tx:
        tx.mapping["k"] = b"1"
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        tx.mapping["l"] = b"1"
    assert dict(store.mapping.items()) == {"k": b"0"}


def test_a_commit_without_an_answer_says_that_nobody_knows(
    store: MappingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither a success nor a conflict that may be run again."""
    committed = psycopg.Connection.commit

    def commit(self: Any) -> None:
        committed(self)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit)
    with pytest.raises(StoreUnavailableError, match="may be stored or not"):
        store.in_transaction(lambda tx: tx.mapping.update_many({"k": b"1"}))
    assert store.mapping["k"] == b"1"


def test_a_stream_is_written_in_a_transaction(store: MappingStore) -> None:
    """Without a checkpoint, which would outlive a transaction that is taken back."""
    array = zarr.create_array(store, shape=(40,), chunks=(4,), dtype="i4", fill_value=0)
    with store.transaction() as tx:
        bound = zarr.open_array(tx, mode="r+")
        report = write_stream(bound, (((number,), np.full(4, number + 1, "i4")) for number in range(10)))
        assert report.written == 10
        assert not np.any(array[:])
        with pytest.raises(ZarrStreamError):
            write_stream(bound, [], checkpoint=Checkpoint("progress"))
    np.testing.assert_array_equal(array[:], np.repeat(np.arange(10) + 1, 4))  # type: ignore[arg-type]


# -- the bank ---------------------------------------------------------------------------------------------------------

ACCOUNTS, AMOUNT = 16, 1000


@pytest.mark.parametrize(
    ("processes", "seconds"), [(3, 2.0), pytest.param(8, 30.0, marks=pytest.mark.slow)], ids=["quick", "full"]
)
def test_amounts_that_move_between_chunks_are_never_lost(
    mapping: PostgreSQLMapping, processes: int, seconds: float
) -> None:
    """Processes move amounts between chunks in transactions; whoever reads in a snapshot sees the same total."""
    store = MappingStore(mapping)
    array = zarr.create_array(store, shape=(ACCOUNTS,), chunks=(1,), dtype="i8", fill_value=0)
    array[:] = AMOUNT
    context = get_context("spawn")
    moved = context.Queue()
    movers = [context.Process(target=move_amounts, args=(store, number, seconds, moved)) for number in range(processes)]
    for mover in movers:
        mover.start()
    reads, different = 0, set()
    while any(mover.is_alive() for mover in movers):
        with store.snapshot() as snap:
            amounts = zarr.open_array(snap, mode="r")[:]
            reads += 1
            different.add(tuple(amounts))
            assert amounts.sum() == ACCOUNTS * AMOUNT  # type: ignore[union-attr]
    for mover in movers:
        mover.join()
    counts = [moved.get(timeout=10) for _ in movers]
    moved.close()
    moved.join_thread()
    assert [mover.exitcode for mover in movers] == [0] * processes
    assert all(count > 0 for count in counts)
    assert reads > 2
    assert len(different) > 2
    assert array[:].sum() == ACCOUNTS * AMOUNT  # type: ignore[union-attr]
    for mover in movers:
        mover.close()
