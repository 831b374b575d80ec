"""Each change of GridFS takes place once, also where an acknowledgement is lost beside another writer; and in time."""

from __future__ import annotations

import gc
import logging
import pickle
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.gridfs_buckets import BOTH, behind, bucket_of, counts, fresh_url
from tests.optional import require
from tests.programs import free_port
from zarrstream import MappingStore, open_store, stream_chunks
from zarrstream.concurrency.deadline import until
from zarrstream.errors import (
    StoreCorruptError,
    StoreOptionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.programs import Server
    from zarrstream.mappings.gridfs import GridFSMapping

pytestmark = pytest.mark.server

VERBS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "put": (lambda m: m.__setitem__("k", b"mine"), None),
    "large": (lambda m: m.__setitem__("k", bytes(9 << 20)), None),
    "many": (lambda m: m.update_many([("k", b"mine"), ("l", b"mine")]), None),
    "delete": (lambda m: m.__delitem__("k"), None),
    "discard": (lambda m: m.discard("k"), None),
    "pop": (lambda m: m.pop("k"), b"first"),
    "setdefault": (lambda m: m.setdefault("k", b"mine"), b"mine"),
}


@pytest.fixture(params=BOTH)
def mapping(request: pytest.FixtureRequest) -> Iterator[GridFSMapping]:
    yield from bucket_of(request.getfixturevalue(request.param))


@pytest.fixture
def database(mapping: GridFSMapping) -> Iterator[Any]:
    yield from behind(mapping)


@pytest.fixture
def other(mapping: GridFSMapping) -> Iterator[GridFSMapping]:
    """Another writer, with a client of its own."""
    from zarrstream.mappings.gridfs import GridFSMapping

    made = GridFSMapping(f"{mapping._connection.where.url}&appName=other", bucket="arrays", array_id="exp")
    made.get("k")
    yield made
    made.close()


@pytest.mark.parametrize("verb", VERBS)
def test_what_took_place_is_not_done_again_after_another_writer(
    mapping: GridFSMapping, other: GridFSMapping, database: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The acknowledgement is lost, and somebody changes the key: that stays, and the answer is that of the first."""
    work, answer = VERBS[verb]
    removes = verb == "setdefault"
    mapping["k"] = b"first"
    if removes:
        del mapping["k"]
    lost: list[int] = []

    def then() -> None:
        lost.append(1)
        if removes:
            del other["k"]
        else:
            other["k"] = b"second"

    if mapping._connection.transacts() and verb != "large":
        _lose_commits(monkeypatch, then)
    else:
        _do_twice(mapping, other, monkeypatch, then)
    assert work(mapping) == answer
    assert lost
    assert other.get("k") == (None if removes else b"second")
    monkeypatch.undo()
    assert counts(database)[0] == len(mapping)


def _lose_commits(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Lose the answer to a commit; the driver sends it again."""
    session = require("pymongo.client_session").ClientSession
    errors = require("pymongo.errors")
    commit = session.commit_transaction
    lost: list[Any] = []

    def lose(self: Any) -> None:
        commit(self)
        if not lost:
            lost.append(self)
            then()
            error = errors.AutoReconnect("connection closed")
            error._add_error_label("UnknownTransactionCommitResult")
            raise error

    monkeypatch.setattr(session, "commit_transaction", lose)


def _do_twice(
    mapping: GridFSMapping, other: GridFSMapping, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]
) -> None:
    """Do the step of a verb that changes something a second time, since its answer was lost."""
    call = mapping._connection.call

    def twice(step: Any, **options: Any) -> Any:
        before = other.get("k")
        found = call(step, **options)
        if other.get("k") == before:
            return found
        monkeypatch.undo()
        then()
        return call(step, **options)

    monkeypatch.setattr(mapping._connection, "call", twice)


def _array(url: str, fill: int) -> Any:
    store = open_store(url)
    return zarr.create_array(store, name="t", shape=(8,), chunks=(2,), dtype="i4", fill_value=fill, overwrite=True)


@pytest.mark.parametrize("again", [True, False], ids=["made-again", "only-dropped"])
def test_another_collection_of_the_same_name_is_a_lost_place(mongod: Server, again: bool) -> None:
    """With an array of the same name in it as well: an error for reads, streams and copies, and no fill value."""
    url = fresh_url(mongod)
    _array(url, -1)[:] = 7
    store: Any = open_store(url)
    array = zarr.open_array(store, path="t", mode="r")
    np.testing.assert_array_equal(array[:2], [7, 7])
    copy = pickle.loads(pickle.dumps(store))
    with require("pymongo").MongoClient(url) as client:
        client.drop_database(url.split("/")[3].partition("?")[0])
    if again:
        _array(url, -1)
    for ask in (
        lambda: array[:],
        lambda: list(stream_chunks(array)),
        lambda: copy.mapping["t/c/0"],
        lambda: "t/c/0" in store.mapping,
        lambda: store.mapping.read_many(["t/c/0"]),
    ):
        with pytest.raises(OSError, match=r"another one now|were there before|not there now"):
            ask()
    store.close()
    copy.close()


@pytest.mark.parametrize("layout", ["gridfs", "zarr-v2"])
@pytest.mark.parametrize("verb", ["write", "read", "list"])
def test_a_collection_that_ignores_case_is_refused(
    mapping: GridFSMapping, database: Any, layout: Any, verb: str
) -> None:
    """It would hold one of two neighbours, and list in another order: nothing is written, and nothing read wrongly."""
    from zarrstream.mappings.gridfs import GridFSMapping

    collection = "folded" if layout == "zarr-v2" else "folded.files"
    database.create_collection(collection, collation={"locale": "en", "strength": 2})
    if layout == "gridfs":
        id_ = require("bson").ObjectId()
        database["folded.files"].insert_one({"_id": id_, "filename": "T/c/0", "length": 0, "chunkSize": 1})
    else:
        database["folded"].insert_one({"key": "T/c/0", "value": b""})
    folded = GridFSMapping(mapping._connection.where.url, bucket="folded", layout=layout)
    verbs: dict[str, Callable[[], object]] = {
        "write": lambda: folded.update({"t/c/0": b"small"}),
        "read": lambda: folded["t/c/0"],
        "list": lambda: list(folded.keys_under("x")),
    }
    with pytest.raises(StoreCorruptError, match=r"different keys may be one.*choose another bucket"):
        verbs[verb]()
    assert database[collection].count_documents({}) == 1
    folded.close()


EVERY: dict[str, Callable[[Any], Any]] = {
    **{verb: work for verb, (work, _) in VERBS.items()},
    "get": lambda m: m["k"],
    "range": lambda m: m.read("k", 1, 2),
    "read-many": lambda m: m.read_many(["k", "x"]),
    "size": lambda m: m.size("k"),
    "in": lambda m: "k" in m,
    "bool": bool,
    "list": list,
    "children": lambda m: list(m.children("")),
    "clear": lambda m: m.clear(),
}


@pytest.mark.parametrize("verb", EVERY)
def test_a_deadline_that_is_over_ends_every_verb(mapping: GridFSMapping, verb: str) -> None:
    """Nothing is asked: to the driver, no time would be all the time that there is."""
    mapping["k"] = b"first"
    with until(0.0), pytest.raises(StoreTimeoutError, match="was given no time"):
        EVERY[verb](mapping)
    assert dict(mapping) == {"k": b"first"}


@pytest.mark.parametrize("verb", EVERY)
def test_every_step_of_every_verb_is_given_what_is_left(
    mapping: GridFSMapping, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Of five seconds no call of the driver gets more, nor none at all."""
    pymongo = require("pymongo")
    mapping["k"] = b"first"
    given: list[float | None] = []
    timeout = pymongo.timeout
    monkeypatch.setattr(pymongo, "timeout", lambda seconds: (given.append(seconds), timeout(seconds))[1])
    with until(5):
        EVERY[verb](mapping)
    assert given
    assert all(seconds is not None and 0 < seconds <= 5 for seconds in given)


def test_a_server_that_nobody_runs_is_told_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses, and has never answered: the 90 seconds of a call are not waited for."""
    pymongo = require("pymongo")
    from zarrstream.mappings.gridfs import GridFSMapping

    given: list[float] = []
    timeout = pymongo.timeout
    monkeypatch.setattr(pymongo, "timeout", lambda seconds: (given.append(seconds), timeout(seconds))[1])
    made = GridFSMapping(f"mongodb://127.0.0.1:{free_port()}/test")
    with pytest.raises(StoreUnavailableError, match="check host and port"):
        made.get("k")
    assert given == [90.0, 1.0]  # the one look, of at most a second
    made.close()


def test_documents_with_a_key_twice_are_named(mapping: GridFSMapping, database: Any) -> None:
    """Two writers of zarr 2 left them, which had no index: the error says which key, and what to do."""
    from zarrstream.mappings.gridfs import GridFSMapping

    database["zarr_collection"].insert_many([{"key": "a/0", "value": b"x"}, {"key": "a/0", "value": b"y"}])
    old = GridFSMapping(mapping._connection.where.url, layout="zarr-v2", bucket="zarr_collection")
    with pytest.raises(StoreCorruptError, match=r"the key 'a/0' in more than one document.*delete all but one"):
        old["new"] = b"1"
    old.close()


def test_documents_of_zarr_2_are_popped_and_kept_once(mapping: GridFSMapping, database: Any) -> None:
    """One step each: who pops has it alone, and who comes second with a default gets what is there."""
    from zarrstream.mappings.gridfs import GridFSMapping

    old = GridFSMapping(mapping._connection.where.url, layout="zarr-v2")
    assert [old.setdefault("k", value) for value in (b"1", b"2")] == [b"1", b"1"]
    assert [old.pop("k"), old.pop("k", None)] == [b"1", None]
    with pytest.raises(KeyError):
        old.pop("k")
    old["k"] = b"3"
    del old["k"]
    with pytest.raises(KeyError):
        del old["k"]
    assert database["zarr_collection"].count_documents({}) == 0
    old.close()


def test_a_bucket_and_a_collection_of_zarr_2_are_two_places(mapping: GridFSMapping) -> None:
    """Also where they have one name: a cache and a checkpoint tell them apart."""
    from zarrstream.mappings.gridfs import GridFSMapping

    url = mapping._connection.where.url
    assert GridFSMapping(url, bucket="fs").place != GridFSMapping(url, bucket="fs", layout="zarr-v2").place


def test_a_url_without_a_database_is_told(mapping: GridFSMapping) -> None:
    """And which one zarr 2 had."""
    from zarrstream.mappings.gridfs import GridFSMapping

    with pytest.raises(StoreOptionError, match=r"names no database: write mongodb://.*layout='zarr-v2'"):
        GridFSMapping("mongodb://localhost")
    assert mapping.place


def test_a_collection_of_zarr_2_is_hinted_at(
    mapping: GridFSMapping, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the bucket is not there: whoever forgot ``layout`` would find nothing."""
    database["zarr_collection"].insert_one({"key": ".zgroup", "value": b'{"zarr_format": 2}'})
    with caplog.at_level(logging.WARNING, "zarrstream"):
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                zarr.open_group(MappingStore(mapping), mode="r")
    assert caplog.text.count("pass layout='zarr-v2'") == 1


def test_what_garbage_closes_touches_no_variable_of_the_context(
    mongod: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected at any moment, in the midst of setting such a variable, too."""
    from zarrstream.mappings.gridfs import GridFSMapping
    from zarrstream.mappings.gridfs import session as gridfs_client

    mark: ContextVar[str] = ContextVar("mark", default="none")
    seen: list[str] = []
    close = gridfs_client._Client.close
    monkeypatch.setattr(gridfs_client._Client, "close", lambda self: (seen.append(mark.get()), close(self))[1])
    mark.set("the caller's")
    dropped = GridFSMapping(fresh_url(mongod))
    assert list(dropped) == []
    del dropped
    gc.collect()
    assert seen == ["none"]
