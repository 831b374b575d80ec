"""PostgreSQL's deadlines: they hold for every verb, for a server that trickles, and for hosts that never answer."""

# ruff: noqa: F811  # fixtures are imported, and asked for by name

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.postgresql_tables import PostgreSQLMapping, admin, mapping, table  # noqa: F401  # fixtures
from tests.services import postgresql_url
from tests.trickle_proxy import TrickleProxy
from zarrstream.concurrency.deadline import until
from zarrstream.errors import StoreOptionError, StoreTimeoutError
from zarrstream.mappings.postgresql.driver import Connection, Overdue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.programs import Server

pytestmark = pytest.mark.server

VERBS: dict[str, Callable[[Any], Any]] = {
    "get": lambda m: m["k"],
    "range": lambda m: m.read("k", 1, 2),
    "slice": lambda m: m.read("k", -2),
    "many": lambda m: m.read_many(["k", "l"]),
    "size": lambda m: m.size("k"),
    "in": lambda m: "k" in m,
    "bool": bool,
    "len": len,
    "list": list,
    "children": lambda m: list(m.children("")),
    "put": lambda m: m.__setitem__("k", b"123"),
    "put-many": lambda m: m.update_many({str(number): b"1" for number in range(3)}),
    "copy": lambda m: m.update_many({str(number): b"1" for number in range(70)}),
    "setdefault": lambda m: m.setdefault("n", b"1"),
    "pop": lambda m: m.pop("k"),
    "delete": lambda m: m.__delitem__("k"),
    "discard": lambda m: m.discard("k"),
    "clear": lambda m: m.clear(),
    "transaction": lambda m: _within(m.transaction(), lambda tx: tx.update_many({"k": b"2"})),
    "snapshot": lambda m: _within(m.snapshot(), list),
}


def _within(block: Any, work: Callable[[Any], Any]) -> None:
    with block as bound:
        work(bound)


@pytest.mark.parametrize("verb", VERBS)
def test_every_step_of_every_verb_is_given_what_is_left(
    mapping: PostgreSQLMapping, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Of five seconds no step of the protocol gets more, where it begins and where it goes on."""
    mapping["k"] = b"123"
    given: list[float] = []
    wait = Connection.wait

    def counted(self: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(self.deadline - time.monotonic())
        return wait(self, gen, *args, **kwargs)

    monkeypatch.setattr(Connection, "wait", counted)
    with until(5):
        VERBS[verb](mapping)
    assert given
    assert max(given) <= 5


@pytest.mark.parametrize("verb", VERBS)
def test_a_deadline_that_is_over_ends_every_verb(mapping: PostgreSQLMapping, verb: str) -> None:
    """Connected or not: the answer is a time-out, and nothing is changed."""
    mapping["k"] = b"123"
    for close in (False, True):
        if close:
            mapping._session.pool.close()
        with until(0.0), pytest.raises(StoreTimeoutError):
            VERBS[verb](mapping)
    assert dict(mapping.items()) == {"k": b"123"}


def test_a_value_that_trickles_trips_the_deadline(postgresql: Server, mapping: PostgreSQLMapping) -> None:
    """Each byte comes in time, and all of them would take hours."""
    mapping["k"] = os.urandom(1 << 20)
    with TrickleProxy(postgresql.port, 4096) as proxy:
        url = postgresql_url(postgresql).replace(f":{postgresql.port}", f":{proxy.port}")
        slow = PostgreSQLMapping(f"{url}?sslmode=disable&gssencmode=disable", table_name=mapping._table_name)
        assert slow.size("k") == 1 << 20
        with until(0.3), pytest.raises(StoreTimeoutError, match="did not answer in time"):
            slow["k"]
        slow.close()


@pytest.mark.parametrize("hosts", [1, 3])
def test_a_host_that_takes_connections_and_never_answers_is_given_up_in_time(hosts: int) -> None:
    """The time that is left is shared among the hosts; the driver's ten seconds for each are not waited for."""
    with closing(socket.create_server(("127.0.0.1", 0))) as hole:
        names = ",".join([f"127.0.0.1:{hole.getsockname()[1]}"] * hosts)
        lost = PostgreSQLMapping(f"postgresql://zarrstream@{names}/test")
        with until(0.3), pytest.raises(StoreTimeoutError) as caught:
            lost.get("k")
        assert isinstance(caught.value.__cause__, Overdue)
        lost.close()


@pytest.mark.slow
def test_the_host_behind_one_that_never_answers_is_reached_in_time(
    postgresql: Server, mapping: PostgreSQLMapping
) -> None:
    """What the first leaves is enough for the second."""
    mapping["k"] = b"1"
    with closing(socket.create_server(("127.0.0.1", 0))) as hole:
        url = postgresql_url(postgresql).replace("127.0.0.1", f"127.0.0.1:{hole.getsockname()[1]},127.0.0.1")
        both = PostgreSQLMapping(url, table_name=mapping._table_name)
        with until(12):
            assert both["k"] == b"1"
        both.close()


@pytest.mark.parametrize("name", ["PGTZ", "PGDATESTYLE", "PGOPTIONS"])
def test_a_setting_that_the_server_refuses_is_told(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It answers, so it is not away: the error names where the setting comes from."""
    monkeypatch.setenv(name, {"PGOPTIONS": "-c no_such_setting=1"}.get(name, "Nowhere/Here"))
    refused = PostgreSQLMapping(postgresql_url(postgresql))
    with pytest.raises(StoreOptionError, match="PGOPTIONS, PGTZ"):
        refused.get("k")


def test_a_table_of_another_schema_is_another_place(postgresql: Server, admin: Any, table: str) -> None:
    """Where the URL's options, or the environment's, say which: a cache and a checkpoint tell the two apart."""
    url = postgresql_url(postgresql)
    places = set()
    for schema in ("one", "two"):
        admin.execute(f"CREATE SCHEMA {schema}{table}")
        there = PostgreSQLMapping(f"{url}?options=-csearch_path%3D{schema}{table}", table_name=table)
        there["k"] = schema.encode()
        places.add(there.place)
        assert f"{schema}{table}" in there.place
        there.close()
    places.add(PostgreSQLMapping(url, table_name=table).place)
    assert len(places) == 3
    for schema in ("one", "two"):
        admin.execute(f"DROP SCHEMA {schema}{table} CASCADE")
