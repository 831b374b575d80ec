"""PostgreSQL's failures: each is our error with its remedy, none reads as "absent", and none shows a password."""

# ruff: noqa: F811  # fixtures are imported, and asked for by name; the statements' tables are ours

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from tests.postgresql_tables import PostgreSQLMapping, admin, mapping, one, psycopg, table  # noqa: F401  # fixtures
from tests.programs import free_port
from tests.services import postgresql_url
from zarrstream import (
    MappingStore,
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreTimeoutError,
    StoreUnavailableError,
    TransactionConflictError,
    open_store,
)
from zarrstream.mappings.postgresql.errors import code, passes, translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server

pytestmark = pytest.mark.server


@pytest.fixture
def guarded(postgresql: Server, admin: Any) -> Iterator[str]:
    """The URL of a user who has to give a password, with a wrong one."""
    rules = postgresql.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    admin.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{before}")
    admin.execute("SELECT pg_reload_conf()")
    while not one(admin, "SELECT count(*) FROM pg_hba_file_rules WHERE user_name = '{guarded}'"):
        pass
    yield postgresql_url(postgresql, "guarded:s3cret")
    rules.write_text(before)
    admin.execute("SELECT pg_reload_conf()")
    admin.execute("DROP ROLE guarded")


def test_a_wrong_password_is_told_at_once_and_shown_nowhere(guarded: str) -> None:
    """Not in the error, nor in those behind it; and never as "there is no array"."""
    store = open_store(guarded)
    begun = time.monotonic()
    with pytest.raises(StoreAccessError, match="pg_hba") as caught:
        zarr.open_array(store, mode="r")
    assert time.monotonic() - begun < 30  # reconnect_timeout is 60
    text = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in text
    assert "password authentication failed" in text
    store.close()


def test_a_lost_database_is_an_error(postgresql: Server) -> None:
    store = open_store(f"{postgresql_url(postgresql)}_none")
    with pytest.raises(StoreUnavailableError, match="does not exist"):
        zarr.open_array(store, mode="r")


def test_a_server_that_never_answered_is_an_error_at_once() -> None:
    mapping = PostgreSQLMapping(f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/test")
    begun = time.monotonic()
    for ask in (lambda: mapping["k"], lambda: "k" in mapping, lambda: list(mapping)):
        with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
            ask()
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert time.monotonic() - begun < 30


def test_a_table_that_was_seen_and_is_gone_is_an_error(mapping: PostgreSQLMapping, admin: Any, table: str) -> None:
    """In every copy, to readers and to writers, until the store is closed."""
    mapping["k"] = b"1"
    copy = pickle.loads(pickle.dumps(mapping))
    admin.execute(f"DROP TABLE {table}")
    for one_of in (mapping, copy):
        for ask in (lambda m: m["k"], lambda m: "k" in m, list, lambda m: m.update_many([("k", b"")])):
            with pytest.raises(StoreUnavailableError, match="has lost the table"):
                ask(one_of)
        with (
            pytest.raises(StoreUnavailableError, match="has lost the table"),
            MappingStore(one_of).transaction() as tx,
        ):
            tx.mapping.get("k")
    mapping.close()
    copy.close()
    assert not mapping
    mapping["k"] = b"1"


def test_a_table_of_others_is_not_written_to(mapping: PostgreSQLMapping, admin: Any, table: str) -> None:
    admin.execute(f"CREATE TABLE {table}(id int, key text)")
    with pytest.raises(StoreCorruptError, match="choose another table_name"):
        mapping["k"] = b"1"
    with pytest.raises(StoreCorruptError, match="choose another table_name"):
        mapping.get("k")


def test_a_user_without_privileges_is_told(postgresql: Server, mapping: PostgreSQLMapping, admin: Any) -> None:
    mapping["k"] = b"1"
    admin.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    other = PostgreSQLMapping(postgresql_url(postgresql, "reader"), table_name=mapping._table_name)
    with pytest.raises(StoreAccessError, match="GRANT"):
        other.get("k")
    admin.execute(f"GRANT SELECT ON {mapping._table_name} TO reader")
    assert other["k"] == b"1"
    with pytest.raises(StoreAccessError, match="GRANT"):
        other["k"] = b"2"
    other.close()
    admin.execute(f"DROP OWNED BY reader; DROP ROLE reader")  # noqa: F541


def test_a_read_only_server_is_told(postgresql: Server, mapping: PostgreSQLMapping) -> None:
    mapping["k"] = b"1"
    url = f"{postgresql_url(postgresql)}?options=-cdefault_transaction_read_only%3Don"
    other = PostgreSQLMapping(url, table_name=mapping._table_name)
    assert other["k"] == b"1"
    with pytest.raises(StoreAccessError, match="target_session_attrs=read-write"):
        other["k"] = b"2"
    other.close()


def test_connections_that_are_all_taken_are_told(postgresql: Server, admin: Any) -> None:
    admin.execute("DROP ROLE IF EXISTS narrow; CREATE ROLE narrow LOGIN CONNECTION LIMIT 0")
    with pytest.raises(StoreUnavailableError, match="lower max_connections"):
        PostgreSQLMapping(postgresql_url(postgresql, "narrow")).get("k")
    admin.execute("DROP ROLE narrow")


def test_a_pool_that_is_all_taken_is_told(postgresql: Server, table: str) -> None:
    mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=table, max_connections=1, timeout=2)
    with mapping.snapshot(), pytest.raises(StoreTimeoutError, match="max_connections"):
        mapping.get("k")
    mapping.close()


def test_a_statement_that_waits_for_too_long_is_a_time_out(
    postgresql: Server, mapping: PostgreSQLMapping, admin: Any
) -> None:
    mapping["k"] = b"1"
    hasty = PostgreSQLMapping(postgresql_url(postgresql), table_name=mapping._table_name, timeout=2)
    with admin.transaction():
        admin.execute(f"SELECT FROM {mapping._table_name} FOR UPDATE")
        with pytest.raises(StoreTimeoutError, match="raise the timeout"):
            hasty["k"] = b"2"
        assert hasty["k"] == b"1"
    hasty["k"] = b"2"
    hasty.close()


def test_a_server_that_hangs_does_not_hold_the_caller(postgresql: Server, mapping: PostgreSQLMapping) -> None:
    """It heeds no statement_timeout then: the deadline is the client's own, and the connection is given up."""
    mapping["k"] = b"1"
    hasty = PostgreSQLMapping(postgresql_url(postgresql), table_name=mapping._table_name, timeout=2)
    backend = hasty._session.call(lambda connection: connection.info.backend_pid)
    assert backend is not None
    os.kill(backend, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(StoreTimeoutError, match="did not answer"):
            hasty.get("k")
        assert time.monotonic() - begun < 60
        assert hasty["k"] == b"1"  # by another connection
    finally:
        os.kill(backend, signal.SIGCONT)
    hasty.close()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", StoreFullError),
        ("53200", StoreError),
        ("54000", StoreError),
        ("58030", StoreCorruptError),
        ("XX001", StoreCorruptError),
        ("40001", TransactionConflictError),
        ("40P01", TransactionConflictError),
        ("99999", StoreError),
    ],
)
def test_a_code_of_the_server_becomes_our_error(
    postgresql: Server, mapping: PostgreSQLMapping, admin: Any, state: str, kind: type[Exception]
) -> None:
    """Raised by a trigger in the server; and nothing of the failed write is stored."""
    mapping["k"] = b"1"
    name = mapping._table_name
    body = f"BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END"
    admin.execute(f"CREATE FUNCTION f{name}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    admin.execute(f"CREATE TRIGGER t AFTER UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION f{name}()")
    other = PostgreSQLMapping(postgresql_url(postgresql), table_name=name, reconnect_timeout=0.1)
    for write in (
        lambda: other.__setitem__("k", b"2"),
        lambda: other.update_many([("k", b"2"), ("l", b"2")]),
        lambda: other.update_many((key, b"2") for key in ("k", *map(str, range(100)))),
    ):
        with pytest.raises(kind) as caught:
            write()
        assert type(caught.value) is kind
        assert caught.value.__cause__ is not None
        assert mapping.place in str(caught.value)
    assert dict(mapping.items()) == {"k": b"1"}
    other.close()


def test_a_key_that_no_index_takes_is_told(mapping: PostgreSQLMapping) -> None:
    with pytest.raises(StoreError, match="2,700 bytes"):
        mapping[os.urandom(4000).hex()] = b"1"


def test_a_database_that_cannot_hold_all_keys_is_refused(postgresql: Server, admin: Any) -> None:
    admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreOptionError, match="ENCODING 'UTF8'"):
        PostgreSQLMapping(postgresql_url(postgresql).replace("/test", "/latin")).get("k")
    admin.execute("DROP DATABASE latin")


def test_a_connection_that_broke_is_replaced(mapping: PostgreSQLMapping, admin: Any) -> None:
    """Nobody notices: neither readers nor writers, nor a transaction that had not begun."""
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'zarrstream'"
    works: list[Any] = [
        lambda: mapping.__setitem__("k", b"1"),
        lambda: mapping["k"],
        lambda: mapping.setdefault("k", b"2"),
        lambda: mapping.update_many([("l", b"1"), ("m", b"1")]),
        lambda: mapping.__delitem__("m"),
        lambda: mapping.pop("l"),
        lambda: MappingStore(mapping).in_transaction(lambda tx: tx.mapping.update_many([("n", b"1")])),
    ]
    for work in works:
        admin.execute(end)
        work()
    assert dict(mapping.items()) == {"k": b"1", "n": b"1"}


@pytest.mark.parametrize("verb", ["put", "setdefault", "delete", "pop", "many"])
def test_a_lost_acknowledgement_is_recognised(
    mapping: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The statement had its effect, the connection broke before the answer: the second attempt finds its own work."""
    from zarrstream.mappings.postgresql.driver import Connection

    mapping["there"] = b"1"
    answered, lost = Connection.wait, []

    def wait(self: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
        answer = answered(self, gen, *args, **kwargs)
        if not lost and self.is_idle:  # the effect is committed
            lost.append(1)
            self.pgconn.finish()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answer

    monkeypatch.setattr(Connection, "wait", wait)
    if verb == "put":
        mapping["k"] = b"2"
    elif verb == "setdefault":
        assert mapping.setdefault("k", b"2") == b"2"
    elif verb == "delete":
        del mapping["there"]
    elif verb == "pop":
        assert mapping.pop("there") == b"1"
    else:
        mapping.update_many([("k", b"2"), ("l", b"2")])
    assert lost
    expected = {"put": {"there", "k"}, "setdefault": {"there", "k"}, "many": {"there", "k", "l"}}
    assert set(mapping) == expected.get(verb, set())


def test_a_refusal_is_told_from_a_server_that_is_away() -> None:
    """libpq hands on what a server says to a connection that it refuses, and not its code."""
    said = {
        'FATAL:  role "x" does not exist': "28P01",
        'FATAL:  database "x" does not exist': "3D000",
        "FATAL:  sorry, too many clients already": "53300",
        "FATAL:  the database system is starting up": "57P03",
        "- host: a: refused\n- host: b: session is read-only": "57P03",
        "connection refused": "08006",
    }
    for text, state in said.items():
        error = psycopg.OperationalError(text)
        assert code(error) == state
        assert passes(error) == state.startswith(("08", "57", "53"))
        assert text.split()[-1] in str(translated(error, "place"))


def test_a_thread_that_waits_is_not_forgotten(mapping: PostgreSQLMapping) -> None:
    """A connection that another thread gives back goes to the one that waits for it."""
    narrow = PostgreSQLMapping(mapping._session.database.url, table_name=mapping._table_name, max_connections=1)
    done: list[bytes | None] = []
    thread = threading.Thread(target=lambda: done.append(narrow.get("k")))
    with narrow.snapshot():
        thread.start()
        assert not done
    thread.join()
    assert done == [None]
    narrow.close()
