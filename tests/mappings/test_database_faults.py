"""The law of the databases' faults: whatever fails at whichever call of a driver, no verb's error reads as "absent"."""

# ruff: noqa: F811  # fixtures are imported, and asked for by name

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.gridfs_buckets import bucket_of, fresh_url
from tests.optional import require
from tests.postgresql_tables import PostgreSQLMapping, psycopg, table  # noqa: F401  # a fixture
from tests.services import postgresql_url
from zarrstream.errors import StoreCorruptError, StoreError, StoreOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.programs import Server

pytestmark = pytest.mark.server

VERBS: dict[str, Callable[[Any], Any]] = {
    "get": lambda m: m["k"],
    "get-absent": lambda m: m.get("n"),
    "range": lambda m: m.read("k", 1, 2),
    "read-many": lambda m: m.read_many(["k", "n"]),
    "size": lambda m: m.size("k"),
    "in": lambda m: "n" in m,
    "bool": bool,
    "len": len,
    "list": list,
    "children": lambda m: list(m.children("")),
    "put": lambda m: m.__setitem__("k", b"2"),
    "put-many": lambda m: m.update_many({"k": b"2", "n": b"2"}),
    "setdefault": lambda m: m.setdefault("n", b"1"),
    "pop": lambda m: m.pop("k"),
    "delete": lambda m: m.__delitem__("k"),
    "discard": lambda m: m.discard("k"),
    "clear": lambda m: m.clear(),
}


def faults(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[int]:
    """Let a function fail at the call whose number stands in what is returned, with one error after the other."""
    state = [0, 0]  # the calls, and which of them fails
    work = getattr(owner, name)

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        state[0] += 1
        if state[0] == state[1]:
            error = errors[state[1] % len(errors)]
            raise type(error)(*error.args)
        return work(self, *arguments, **options)

    monkeypatch.setattr(owner, name, failing)
    return state


PG_ERRORS: list[Exception] = [
    KeyError("injected"),
    FileNotFoundError(2, "injected"),
    NotADirectoryError(20, "injected"),
    IndexError("injected"),
    psycopg.OperationalError("server closed the connection unexpectedly"),
    psycopg.InterfaceError("injected"),
    psycopg.InternalError("injected"),
    OSError(9, "injected"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_no_fault_of_psycopg_reads_as_absent(
    postgresql: Server, table: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """At each step of the protocol; what passes is tried again, and everything else is an error of ours."""
    from zarrstream.mappings.postgresql.driver import Connection

    mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=table, reconnect_timeout=5)
    check_steps(mapping, VERBS[verb], faults(Connection, "wait", monkeypatch, PG_ERRORS), PG_ERRORS)
    mapping.close()


@pytest.fixture
def bucket(mongod: Server) -> Iterator[Any]:
    yield from bucket_of(mongod, timeout=10.0)


@pytest.mark.parametrize("verb", VERBS)
def test_no_fault_of_pymongo_reads_as_absent(bucket: Any, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """At each command that is sent."""
    errors = require("pymongo.errors")
    connection = require("pymongo.synchronous.pool").Connection
    given: list[Exception] = [
        KeyError("injected"),
        FileNotFoundError(2, "injected"),
        NotADirectoryError(20, "injected"),
        errors.AutoReconnect("injected"),
        errors.OperationFailure("injected", 99999),
        errors.NetworkTimeout("injected"),
        errors.InvalidDocument("injected"),
        OSError(9, "injected"),
    ]
    check_steps(bucket, VERBS[verb], faults(connection, "command", monkeypatch, given), given)


def check_steps(mapping: Any, work: Callable[[Any], Any], state: list[int], errors: list[Exception]) -> None:
    """Fail each call of a verb, with each of the errors."""
    mapping["k"] = b"1"
    known = list(errors)
    for turn in range(len(known)):
        number = 0
        errors[:] = [known[turn]]
        while True:
            number += 1
            state[:] = [0, number]
            with suppress(StoreError):  # and nothing else
                work(mapping)
            calls, state[1] = state[0], 0
            mapping["k"] = b"1"
            mapping.discard("n")
            if calls < number:
                break
    errors[:] = known


def test_a_document_of_others_is_corrupt_and_not_absent(bucket: Any) -> None:
    """A file without its length or its piece size is there, and cannot be read."""
    bucket["zarr.json"] = b"{}"
    with require("pymongo").MongoClient(bucket._connection.where.url) as client:
        files = client[bucket._connection.where.database]["arrays.files"]
        files.insert_many([{"filename": "exp/c/0"}, {"filename": "exp/c/1", "length": 3}])
    for ask in (
        lambda: bucket["c/0"],
        lambda: bucket["c/1"],
        lambda: bucket.size("c/0"),
        lambda: bucket.read("c/1", 1),
        lambda: bucket.read_many(["c/0"]),
        lambda: bucket.pop("c/0"),
    ):
        with pytest.raises(StoreCorruptError, match="none of GridFS"):
            ask()


def test_a_certificate_that_is_not_there_is_an_option_of_the_user(mongod: Server) -> None:
    """To the driver it is a file that was not found, and to zarr that would be a chunk that was not."""
    from zarrstream.mappings.gridfs import GridFSMapping

    lost = GridFSMapping(f"{fresh_url(mongod)}&tls=true&tlsCAFile=/no/such/file.pem")
    with pytest.raises(StoreOptionError):
        lost["k"]
    lost.close()
