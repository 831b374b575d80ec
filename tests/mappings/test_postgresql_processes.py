"""PostgreSQL under many threads and processes, forks, kills of the server, and fail-over to its standby."""

# ruff: noqa: F811  # fixtures are imported, and asked for by name

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.postgresql_tables import PostgreSQLMapping, admin, mapping, one, psycopg, table  # noqa: F401  # fixtures
from tests.processes import in_child
from tests.programs import Server, data_folder
from tests.services import postgresql_server, postgresql_standby, postgresql_url, postgresql_user, serve_postgresql
from zarrstream import MappingStore, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.server


def test_those_that_make_the_table_at_once_are_all_right(postgresql: Server, table: str) -> None:
    """PostgreSQL tells all but one of them that there is a duplicate, IF NOT EXISTS or not; nobody hears of it."""
    failures: list[BaseException] = []
    for number in range(10):
        together = threading.Barrier(8)

        def write(key: str, name: str = f"{table}_{number}", together: threading.Barrier = together) -> None:
            mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=name)
            assert key not in mapping
            together.wait()
            try:
                mapping[key] = b"1"
                assert mapping[key] == b"1"
            except BaseException as error:  # noqa: BLE001  # told to the test's own thread
                failures.append(error)
            mapping.close()

        threads = [threading.Thread(target=write, args=(f"{key}",)) for key in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def session(mapping: PostgreSQLMapping) -> int:
    """Return the server's process behind the connection that the mapping uses next."""
    found = mapping._session.call(lambda connection: connection.info.backend_pid)
    assert found is not None
    return found


def test_no_connection_is_carried_through_a_fork(mapping: PostgreSQLMapping) -> None:
    """The child has its own, whatever it does to what it inherited, and the parent's session lives on."""
    mapping["k"] = b"1"
    before = session(mapping)

    def work() -> None:
        assert session(mapping) != before
        assert mapping["k"] == b"1"
        mapping.close()
        gc.collect()
        mapping["k"] = b"2"

    in_child(work)
    assert session(mapping) == before
    assert mapping["k"] == b"2"


def test_a_child_that_drops_the_mapping_ends_nothing_of_the_parent(mapping: PostgreSQLMapping) -> None:
    held = [PostgreSQLMapping(mapping._session.database.url, table_name=mapping._table_name)]
    held[0]["k"] = b"1"
    before = session(held[0])

    def work() -> None:
        held.clear()
        gc.collect()

    in_child(work)
    assert session(held[0]) == before
    held[0].close()


def test_a_child_that_drops_a_connection_ends_nothing_of_the_parent(mapping: PostgreSQLMapping) -> None:
    """One that no pool knows yet: another thread was about to make it."""
    held = [mapping._session.database.connect(timeout=5, settings={"jit": "off"})]

    def work() -> None:
        held.clear()
        gc.collect()

    in_child(work)
    assert held[0].execute("SELECT 1").fetchone() == (1,)
    held[0].close()


# -- servers that die -------------------------------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server for one test, whose writes wait for the disk."""
    with data_folder(postgresql_user()) as folder:
        server = postgresql_server(folder)
        yield server
        server.stop(signal.SIGINT)


class Writer(threading.Thread):
    """Writes one chunk after the other, and counts what was acknowledged."""

    def __init__(self, mapping: PostgreSQLMapping) -> None:
        super().__init__()
        self.mapping = mapping
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self.enough = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                self.mapping[f"c/{self.acknowledged}"] = content(self.acknowledged)
                self.acknowledged += 1
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            self.failure = error

    def wait_for(self, count: int) -> None:
        """Return when so many more chunks are acknowledged."""
        goal = self.acknowledged + count
        while self.acknowledged < goal and self.is_alive():
            time.sleep(0.001)
        assert self.failure is None

    def finish(self) -> int:
        """Return how many were acknowledged."""
        self.enough.set()
        self.join()
        assert self.failure is None
        return self.acknowledged


def content(number: int) -> bytes:
    """Return the value of a chunk."""
    return number.to_bytes(4, "big") * 500


def check(mapping: PostgreSQLMapping, count: int) -> None:
    """Find every chunk that was acknowledged, as it was written, and none beside them."""
    assert {key: mapping[key] for key in mapping} == {f"c/{number}": content(number) for number in range(count)}


def settled(ask: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_writer_goes_on_when_the_server_was_killed_and_started_again(own_server: Server) -> None:
    """Every acknowledged chunk is there, and nobody but the clock notices."""
    mapping = PostgreSQLMapping(postgresql_url(own_server))
    writer = Writer(mapping)
    writer.wait_for(20)
    for _ in range(2):
        kill(own_server)
        revived = serve_postgresql(own_server.folder, port=own_server.port)
        own_server.process, revived.process = revived.process, None
        writer.wait_for(20)
    check(mapping, writer.finish())
    mapping.close()


def kill(server: Server) -> None:
    """End a server and all of its processes at once, as the loss of the machine would."""
    assert server.process is not None
    children = children_of(server.process.pid)
    server.kill()
    for child in children:
        settled(lambda child=child: not os.path.exists(f"/proc/{child}"))  # type: ignore[misc]  # noqa: PTH110


def children_of(parent: int) -> list[int]:
    """Return the processes that a server has started; they end by themselves when it does."""
    with open(f"/proc/{parent}/task/{parent}/children") as children:  # noqa: PTH123  # no file
        return [int(child) for child in children.read().split()]


def test_a_server_that_does_not_come_back_is_an_error_after_its_time(own_server: Server) -> None:
    mapping = PostgreSQLMapping(postgresql_url(own_server), reconnect_timeout=1.0)
    mapping["k"] = b"1"
    own_server.stop(signal.SIGINT)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="start the server"):
        mapping.get("k")
    assert 1.0 <= time.monotonic() - begun < 30  # 60, by default
    mapping.close()


@pytest.mark.slow
def test_the_standby_takes_over_and_no_acknowledged_chunk_is_lost(own_server: Server) -> None:
    """Primary and synchronous standby: the primary is killed for good, the standby promoted, the writer goes on."""
    with data_folder(postgresql_user()) as folder:
        standby = postgresql_standby(folder, own_server)
        try:
            with psycopg.connect(postgresql_url(own_server), autocommit=True) as control:
                control.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                control.execute("SELECT pg_reload_conf()")
                state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                settled(lambda: one(control, state) == 1)
            hosts = f"127.0.0.1:{own_server.port},127.0.0.1:{standby.port}"
            url = f"postgresql://zarrstream@{hosts}/test?target_session_attrs=read-write"
            mapping = PostgreSQLMapping(url)
            writer = Writer(mapping)
            writer.wait_for(50)
            kill(own_server)
            with psycopg.connect(postgresql_url(standby), autocommit=True) as control:
                control.execute("SELECT pg_promote()")
            writer.wait_for(50)
            count = writer.finish()
            check(mapping, count)
            assert mapping.place.startswith(f"postgresql://{hosts}/test/zarr")
            there = PostgreSQLMapping(postgresql_url(standby))
            check(there, count)
            there.close()
            MappingStore(mapping).in_transaction(lambda tx: tx.mapping.update_many({"more": b""}))
            mapping.close()
        finally:
            standby.stop(signal.SIGINT)


@pytest.mark.slow
def test_a_worker_that_starts_in_the_midst_of_a_fail_over_waits_as_well(own_server: Server) -> None:
    """A pickled copy knows that the server has answered before."""
    mapping = PostgreSQLMapping(postgresql_url(own_server))
    mapping["k"] = b"1"
    restore: Any
    restore, arguments, state = mapping.__reduce__()
    copy = restore(*arguments)
    copy.__setstate__(state)
    kill(own_server)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(copy["k"]))
    reader.start()
    revived = serve_postgresql(own_server.folder, port=own_server.port)
    own_server.process, revived.process = revived.process, None
    reader.join()
    assert found == [b"1"]
    copy.close()
    mapping.close()
