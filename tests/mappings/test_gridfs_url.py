"""What a MongoDB URL names, and that nothing of it that is secret is ever shown."""

from __future__ import annotations

import pickle
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import pytest

from tests.optional import require
from zarrstream import open_store
from zarrstream.errors import StoreOptionError
from zarrstream.mappings.gridfs.url import address

if TYPE_CHECKING:
    from tests.programs import Server

require("pymongo")
from zarrstream.mappings.gridfs import GridFSMapping  # noqa: E402  # the driver has to be there


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("mongodb://host/db", "mongodb://host:27017/db/fs"),
        ("mongodb://u:p%40ss@B:27018,a/db?replicaSet=rs0&authSource=admin", "mongodb://a:27017,b:27018/db/fs"),
        ("mongodb+srv://u:p@cluster.example.org/db?w=1", "mongodb+srv://cluster.example.org/db/fs"),
        ("mongo_gridfs://host/db", "mongodb://host:27017/db/fs"),
        ("mongodb://[::1]:5/db", "mongodb://[::1]:5/db/fs"),
    ],
)
def test_a_place_is_servers_database_and_bucket(url: str, place: str) -> None:
    """In whichever order the servers are named, and without credentials and options."""
    assert GridFSMapping(url).place == place
    assert GridFSMapping(url, bucket="a/b", array_id="x/y").place == f"{place.removesuffix('/fs')}/a%2Fb/x/y"


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://host",
        "mongodb://host/",
        "mongodb://host/a.b",
        "mongodb://user:hush/hush@host/db",
        "mongodb://user/hush@host/db",
        "mongodb://user:hush?hush@host/db",
        "mongodb://user:hush@hush@host/db",
        "mongodb://user:hu@sh/hush?hush@host/db",
        "mongodb://user:hush#@ho st/db",
        "http://user:hush@host/db",
        "hush",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_showing_it(url: str) -> None:
    """A sign that should have been percent-encoded may leave half a password anywhere."""
    with pytest.raises(StoreOptionError) as caught:
        GridFSMapping(url)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://user:hush@host:99999/db",
        "mongodb+srv://user:hush@cluster.example.test:27017/db",
        "mongodb+srv://user:hush@a.example.test,b.example.test/db",
        "mongodb+srv://user:hush@unknown.example.test/db",
    ],
)
def test_what_the_driver_refuses_is_an_option_error_without_its_words(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is no host, a service with a port or a second name, and one that no DNS knows."""
    resolver = require("dns.resolver")

    def unknown(*_: object, **__: object) -> NoReturn:
        raise resolver.NXDOMAIN

    monkeypatch.setattr(resolver, "resolve", unknown)
    with pytest.raises(StoreOptionError, match="driver does not take") as caught:
        GridFSMapping(url)["k"]
    error: BaseException | None = caught.value
    while error is not None:
        assert "hush" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.server
def test_a_service_of_the_dns_leads_to_its_servers(lone_mongod: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mongodb+srv://``: the DNS says which servers they are, and the place is the service, wherever it leads."""
    message, names, kinds, resolver = (require(f"dns.{part}") for part in ("message", "name", "rdatatype", "resolver"))
    record = f"_mongodb._tcp.cluster.example.test. 60 IN SRV 0 0 {lone_mongod.port} one.example.test."
    asked = []

    def resolve(name: str, kind: str, **_: object) -> Any:
        asked.append((str(name), kind))
        answer = record if kind == "SRV" else ""
        reply = message.from_text(
            f"id 1\nopcode QUERY\nrcode NOERROR\nflags QR\n;QUESTION\n{name}. IN {kind}\n;ANSWER\n{answer}"
        )
        return resolver.Answer(names.from_text(str(name)), kinds.from_text(kind), 1, reply)

    getaddrinfo = socket.getaddrinfo

    def address_of(host: str, *rest: Any, **named: Any) -> Any:
        return getaddrinfo("127.0.0.1" if host == "one.example.test" else host, *rest, **named)

    monkeypatch.setattr(resolver, "resolve", resolve)
    monkeypatch.setattr(socket, "getaddrinfo", address_of)
    store: Any = open_store(
        f"mongodb+srv://cluster.example.test/t{uuid4().hex}?tls=false", array_id="exp", timeout=20.0
    )
    store.mapping["k"] = b"1"
    assert store.mapping["k"] == b"1"
    assert store.mapping.place.startswith("mongodb+srv://cluster.example.test/")
    assert ("_mongodb._tcp.cluster.example.test", "SRV") in asked
    store.close()


@pytest.mark.parametrize(
    ("hello", "has"), [({"setName": "rs0"}, True), ({"msg": "isdbgrid"}, True), ({"ok": 1.0}, False)]
)
def test_replica_sets_and_routers_of_shards_have_transactions(
    hello: dict[str, Any], *, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As their greeting says. (No package that tests can install has a mongos: its greeting is all that is met.)"""
    mapping = GridFSMapping("mongodb://host/db")
    database = SimpleNamespace(client=SimpleNamespace(admin=SimpleNamespace(command={"hello": hello}.get)))
    monkeypatch.setattr(mapping._connection, "call", lambda work: work(database))
    assert mapping._connection.transacts() is has


def test_parts_are_a_url() -> None:
    """As ExZarr has them, and a password that needs encoding gets it."""
    made: Any = open_store("mongo_gridfs", host="localhost", database="db", bucket="arrays", array_id="experiment_001")
    assert made.mapping.place == "mongodb://localhost:27017/db/arrays/experiment_001"
    where = address(None, host="h:1,i", database="db", username="me@x", password="p/ss:w@rd")  # noqa: S106  # nobody's
    assert where.url == "mongodb://me%40x:p%2Fss%3Aw%40rd@h:1,i/"
    for wrong in (
        {},
        {"host": "h"},
        {"url": "mongodb://h/db", "host": "h"},
        {"url": "mongodb://h/db", "database": "x"},
    ):
        with pytest.raises(StoreOptionError):
            GridFSMapping(**wrong)  # type: ignore[arg-type]  # texts all
    with pytest.raises(StoreOptionError, match="credentials belong into the URL"):
        GridFSMapping("mongodb://h/db", username="me")


@pytest.mark.parametrize(
    "option",
    [{"bucket": ""}, {"bucket": "a$b"}, {"bucket": 5}, {"array_id": "a/"}, {"array_id": 5}, {"layout": "v2"}]
    + [{"timeout": value} for value in (0, -1, "1", float("nan"))],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(option: Any) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(option))):
        GridFSMapping("mongodb://host/db", **option)


def test_credentials_are_in_the_pickle_and_nowhere_else() -> None:
    mapping = GridFSMapping("mongodb://user:hush@host/db?authSource=admin", array_id="a", timeout=5.0)
    copy = pickle.loads(pickle.dumps(mapping))
    assert copy._connection.where == mapping._connection.where
    assert copy._connection.timeout == 5.0
    assert copy == mapping
    for shown in (repr(mapping), str(mapping), mapping.place, repr(mapping._connection.where)):
        assert "hush" not in shown
        assert "user" not in shown


def test_a_place_of_zarr_2_has_its_defaults() -> None:
    mapping = GridFSMapping(host="localhost", layout="zarr-v2")
    assert mapping.place == "mongodb://localhost:27017/mongodb_zarr/zarr_collection?layout=zarr-v2"
