"""Each change of PostgreSQL takes place once: also where its acknowledgement is lost, beside another writer."""

# ruff: noqa: F811  # fixtures are imported, and asked for by name

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.postgresql_tables import PostgreSQLMapping, admin, mapping, psycopg, table  # noqa: F401  # fixtures
from tests.services import postgresql_url
from zarrstream.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from zarrstream.mappings.postgresql.driver import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.programs import Server

pytestmark = pytest.mark.server

#: The verb, what it returns where it takes place first, and where it comes after the other writer.
VERBS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "put": (lambda m: m.__setitem__("k", b"mine"), None, None),
    "many": (lambda m: m.update_many([("k", b"mine"), ("l", b"mine")]), None, None),
    "copy": (lambda m: m.update_many([("k", b"mine"), *((str(n), b"mine") for n in range(70))]), None, None),
    "delete": (lambda m: m.__delitem__("k"), None, None),
    "discard": (lambda m: m.discard("k"), None, None),
    "pop": (lambda m: m.pop("k"), b"first", b"second"),
    "setdefault": (lambda m: m.setdefault("k", b"mine"), b"mine", b"second"),
    "clear": (lambda m: m.clear(), None, None),
}
LEAVES = {"put": b"mine", "many": b"mine", "copy": b"mine", "setdefault": b"second"}


@pytest.fixture
def other(mapping: PostgreSQLMapping) -> Iterator[PostgreSQLMapping]:
    """Another writer."""
    made = PostgreSQLMapping(mapping._session.database.url, table_name=mapping._table_name)
    yield made
    made.close()


def break_at(
    monkeypatch: pytest.MonkeyPatch, step: str, then: Callable[[], object], *, commits: bool, closes: bool = True
) -> list[str]:
    """Break the first connection that comes to a step, before or after the server has done it; return what broke."""
    broken: list[str] = []
    work = getattr(Connection, step)

    def breaking(self: Any, *arguments: Any, **options: Any) -> Any:
        if broken:
            return work(self, *arguments, **options)
        broken.append(step)
        if commits:
            work(self, *arguments, **options)
        if closes:
            self.pgconn.finish()
        else:  # the server has not noticed
            broken.append(str(os.dup(self.pgconn.socket)))
            self.disown()
        then()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(Connection, step, breaking)
    return broken


@pytest.mark.parametrize("verb", VERBS)
def test_what_took_place_is_not_done_again_after_another_writer(
    mapping: PostgreSQLMapping, other: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The acknowledgement is lost, and somebody changes the key: that stays, and the answer is that of the first."""
    work, first, _ = VERBS[verb]
    mapping["l"] = b"1"
    if verb != "setdefault":
        mapping["k"] = b"first"
    removes = verb == "setdefault"
    then = (lambda: other.__delitem__("k")) if removes else (lambda: other.__setitem__("k", b"second"))
    broken = break_at(monkeypatch, "commit", then, commits=True)
    # The other one's own commit goes by, since only the first breaks.
    assert work(mapping) == first
    assert broken
    assert other.get("k") == (None if removes else b"second")


@pytest.mark.parametrize("step", ["start", "commit"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_did_not_take_place_is_done_after_another_writer(
    mapping: PostgreSQLMapping, other: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch, verb: str, step: str
) -> None:
    """The connection breaks before the commit reaches the server: the change comes second, and acts so."""
    work, _, second = VERBS[verb]
    mapping["l"] = b"1"
    if verb != "setdefault":
        mapping["k"] = b"first"
    broken = break_at(monkeypatch, step, lambda: other.__setitem__("k", b"second"), commits=False)
    assert work(mapping) == second
    assert broken
    assert other.get("k") == LEAVES.get(verb)


def test_a_session_whose_client_is_gone_is_ended_before_the_change_is_made_again(
    mapping: PostgreSQLMapping, other: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server still waits for its commit, as behind a network that was cut: nothing of it comes later."""
    mapping["k"] = b"first"
    broken = break_at(monkeypatch, "commit", lambda: None, commits=False, closes=False)
    assert mapping.pop("k") == b"first"
    assert "k" not in other
    os.close(int(broken[1]))


@pytest.mark.parametrize("verb", ["delete", "pop"])
def test_a_server_that_was_started_again_is_believed_by_what_is_there(
    mapping: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It numbers transactions anew: what is gone is taken to be gone by the first attempt."""
    mapping["k"] = b"first"
    mapping._session.call(lambda connection: setattr(connection, "server", "before"))
    assert break_at(monkeypatch, "commit", lambda: None, commits=True) == []
    assert VERBS[verb][0](mapping) == VERBS[verb][1]
    with pytest.raises(KeyError):
        VERBS[verb][0](mapping)


@pytest.mark.parametrize("verb", VERBS)
def test_a_commit_without_an_answer_is_told_as_such(
    postgresql: Server, mapping: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Where nobody is there to be asked: the change may have taken place, and that is what the error says."""
    mapping["k"] = b"first"
    if verb == "setdefault":
        del mapping["k"]
    hasty = PostgreSQLMapping(postgresql_url(postgresql), table_name=mapping._table_name, reconnect_timeout=0.0)
    assert hasty.get("l") is None
    break_at(monkeypatch, "commit", lambda: None, commits=True)
    monkeypatch.setattr(hasty._session.pool, "_connect", _away)
    with pytest.raises(StoreUnavailableError, match="may have taken place or not"):
        VERBS[verb][0](hasty)
    hasty.close()


def _away() -> Connection:
    raise psycopg.OperationalError("connection refused")


@pytest.mark.parametrize("verb", VERBS)
def test_what_failed_by_time_does_not_take_place_later(
    postgresql: Server, mapping: PostgreSQLMapping, admin: Any, verb: str
) -> None:
    """A row that another one holds: after the error nothing waits for it at the server, nor changes it."""
    mapping["k"] = b"old"
    name = mapping._table_name
    hasty = PostgreSQLMapping(postgresql_url(postgresql), table_name=name, timeout=0.1)
    if verb == "setdefault":
        with admin.transaction():
            admin.execute(f"DELETE FROM {name} WHERE key = 'k'")  # noqa: S608  # a table of this test's
            with pytest.raises(StoreTimeoutError) as caught:
                hasty.setdefault("k", b"mine")
    else:
        with admin.transaction():
            admin.execute(f"SELECT FROM {name} FOR UPDATE")
            with pytest.raises(StoreTimeoutError) as caught:
                VERBS[verb][0](hasty)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
            while admin.execute(waiting, (f"%{name}%",)).fetchone() != (0,):
                pass
    assert "may have taken place" not in str(caught.value)  # it was never sent to be committed
    assert mapping.get("k") == (None if verb == "setdefault" else b"old")
    hasty.close()


@pytest.mark.parametrize("count", [1, 64, 100])
def test_a_batch_needs_no_temporary_table(
    postgresql: Server, mapping: PostgreSQLMapping, admin: Any, count: int
) -> None:
    """A user who may make none writes the same, in one transaction: the larger batch takes longer."""
    mapping["k"] = b"1"
    role = f"r{mapping._table_name}"
    admin.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON {mapping._table_name} TO {role}")
    admin.execute("REVOKE TEMP ON DATABASE test FROM PUBLIC")
    try:
        poor = PostgreSQLMapping(postgresql_url(postgresql, role), table_name=mapping._table_name)
        poor.update_many({str(number): b"x" for number in range(count)})
        assert len(mapping) == 1 + count
        poor.close()
    finally:
        admin.execute(f"GRANT TEMP ON DATABASE test TO PUBLIC; DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("verb", ["__setitem__", "setdefault", "update_many"])
def test_a_value_that_no_message_holds_is_refused_at_once(mapping: PostgreSQLMapping, verb: str) -> None:
    """Nothing is sent, and the server is not said to be away."""
    value = np.zeros(1 << 30, "u1")  # pages that nobody touches take no memory
    arguments = ([("k", value)],) if verb == "update_many" else ("k", value)
    with pytest.raises(StoreError, match="cannot hold a key or value of this size") as caught:
        getattr(mapping, verb)(*arguments)
    assert not isinstance(caught.value, StoreUnavailableError)
    assert not mapping._session.connected
