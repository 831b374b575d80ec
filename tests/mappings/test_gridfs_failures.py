"""What MongoDB says when it fails: our error, the place and the remedy, nothing secret, and never "absent"."""

from __future__ import annotations

import pickle
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import zarr

from tests.optional import require
from tests.programs import data_folder
from tests.services import mongod_server, mongodb_url
from zarrstream import MappingStore, open_store
from zarrstream.errors import (
    StoreAccessError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server
    from zarrstream.mappings.gridfs import GridFSMapping

pytestmark = pytest.mark.server
_KINDS = ("files", "chunks")


@pytest.fixture
def name() -> str:
    return f"t{uuid4().hex}"


@pytest.fixture
def mapping(mongod: Server, name: str) -> Iterator[GridFSMapping]:
    from zarrstream.mappings.gridfs import GridFSMapping

    made = GridFSMapping(mongodb_url(mongod, name), bucket="arrays", array_id="exp", timeout=10)
    yield made
    made.close()


@pytest.fixture
def driver(mongod: Server) -> Iterator[Any]:
    with require("pymongo").MongoClient(mongodb_url(mongod)) as client:
        yield client


@contextmanager
def failing(driver: Any, *commands: str, times: int = 1, **how: Any) -> Iterator[None]:
    """Let the server fail some commands."""
    data = {"failCommands": list(commands), **how}
    driver.admin.command({"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data})
    try:
        yield
    finally:
        driver.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (13, StoreAccessError, "grant the role"),
        (50, StoreTimeoutError, "raise timeout"),
        (10334, StoreError, "smaller chunks"),
        (14031, StoreFullError, "free space"),
        (9999999, StoreError, "raised from"),
    ],
)
def test_a_code_of_the_server_is_our_error(
    mapping: GridFSMapping, driver: Any, code: int, kind: type[Exception], remedy: str
) -> None:
    """Reading and writing; what was there stays."""
    mapping["k"] = b"1"
    for command, ask in (("find", lambda: mapping["k"]), ("insert", lambda: mapping.update({"k": b"2"}))):
        with (
            failing(driver, command, errorCode=code, times=3),
            pytest.raises(kind, match=f"arrays/exp .*{remedy}") as caught,
        ):
            ask()
        assert type(caught.value) is kind
    assert mapping["k"] == b"1"


def test_a_lost_connection_is_mended(mapping: GridFSMapping, driver: Any) -> None:
    """The driver asks again, and we do once more; what the server did before the loss is done once."""
    mapping["k"] = b"1"
    for command in ("find", "insert", "delete", "commitTransaction"):
        with failing(driver, command, closeConnection=True):
            mapping["k"] = command.encode()
        with failing(driver, "find", closeConnection=True):
            assert mapping["k"] == command.encode()
    files = driver[mapping.place.split("/")[3]]["arrays.files"]
    assert [file["metadata"]["zarrstream"] for file in files.find()] == [5]


def test_the_first_attempt_of_setdefault_is_recognised(mapping: GridFSMapping, driver: Any) -> None:
    """After a lost acknowledgement what is there is our own, and we have won."""
    lost = {"errorCode": 91, "errorLabels": ["RetryableWriteError", "UnknownTransactionCommitResult"]}
    concern = {"writeConcernError": {"code": 91, "errmsg": "shutting down"}, "errorLabels": lost["errorLabels"]}
    with failing(driver, "commitTransaction", **concern):
        assert mapping.setdefault("k", b"mine") == b"mine"
    assert mapping.setdefault("k", b"other") == b"mine"
    original, attempts = mapping._connection.transaction, []

    def twice(work: Any) -> Any:
        """Lose the acknowledgement of a commit that has taken place."""
        attempts.append(original(work))
        return original(work)

    mapping._connection.transaction = twice  # type: ignore[method-assign]
    assert mapping.setdefault("l", b"mine") == b"mine"
    assert attempts == [True]


def test_without_transactions_every_step_may_be_done_twice(lone_mongod: Server, name: str) -> None:
    """An acknowledgement that is lost at any step leaves what was meant, once."""
    from zarrstream.mappings.gridfs import GridFSMapping

    mapping = GridFSMapping(mongodb_url(lone_mongod, name), bucket="arrays", array_id="exp")
    mapping["before"] = b"1"
    original = mapping._connection.call

    def twice(work: Any, **options: Any) -> Any:
        original(work, **options)
        return original(work, **options)

    mapping._connection.call = twice  # type: ignore[method-assign]
    mapping["before"] = b"2"
    mapping["new"] = b"3"
    assert mapping.setdefault("default", b"4") == b"4"
    mapping.discard("before")
    assert dict(mapping) == {"new": b"3", "default": b"4"}
    with require("pymongo").MongoClient(mongodb_url(lone_mongod)) as client:
        for collection in ("arrays.files", "arrays.chunks"):
            assert client[name][collection].count_documents({}) == 2
        with failing(client, "insert", "update", "delete", closeConnection=True):
            mapping._connection.call = original  # type: ignore[method-assign]
            mapping["new"] = b"5"
    assert mapping["new"] == b"5"
    mapping.close()


def test_a_slow_server_is_a_timeout_and_ends_in_time(mapping: GridFSMapping, driver: Any, name: str) -> None:
    from zarrstream.mappings.gridfs import GridFSMapping

    mapping["k"] = b"1"
    hasty = GridFSMapping(mapping._connection.where.url, bucket="arrays", array_id="exp", timeout=0.5)
    with failing(driver, "find", blockConnection=True, blockTimeMS=30_000, times=5):
        started = time.monotonic()
        with pytest.raises(StoreTimeoutError, match="raise timeout"):
            hasty["k"]
        assert time.monotonic() - started < 15
    hasty.close()


@pytest.mark.slow
def test_a_server_that_is_gone_is_unavailable() -> None:
    """In the middle, and from the start; and it is used again when it is back. What it had acknowledged is there."""
    require("pymongo")
    from tests.programs import listens
    from zarrstream.mappings.gridfs import GridFSMapping

    with data_folder() as folder:
        server = mongod_server(folder)
        mapping = GridFSMapping(mongodb_url(server), timeout=1)
        for number in range(20):
            mapping[f"k{number}"] = b"%d" % number
        server.kill()
        for ask in (lambda: mapping["k0"], lambda: list(mapping), lambda: mapping.update({"k0": b"2"})):
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="check host and port"):
                ask()
            assert time.monotonic() - started < 20  # pymongo itself waits for 30
        with pytest.raises(StoreUnavailableError):
            zarr.open_array(MappingStore(mapping), mode="r")
        mapping.close()
        server.start(listens)
        patient = GridFSMapping(mongodb_url(server))
        assert {key: patient[key] for key in patient} == {f"k{number}": b"%d" % number for number in range(20)}
        patient.close()
        server.stop()


def test_passwords_and_roles() -> None:
    """A wrong password, none, and a user who may only read: said without saying the password."""
    pymongo = require("pymongo")
    from zarrstream.mappings.gridfs import GridFSMapping

    with data_folder() as folder:
        server = mongod_server(folder, "--auth")
        root = {"user": "root", "pwd": "hushhush", "roles": ["root"]}
        with pymongo.MongoClient(mongodb_url(server)) as client:
            client.admin.command({"createUser": root["user"], "pwd": root["pwd"], "roles": root["roles"]})
        at = f"@127.0.0.1:{server.port}/db?authSource=admin&serverMonitoringMode=poll"
        writer = GridFSMapping(f"mongodb://root:hushhush{at}")
        writer["k"] = b"1"
        with pymongo.MongoClient(f"mongodb://root:hushhush{at}") as client:
            find = [{"resource": {"db": "db", "collection": f"fs.{kind}"}, "actions": ["find"]} for kind in _KINDS]
            client.db.command({"createRole": "finder", "privileges": find, "roles": []})
            finder = [{"role": "finder", "db": "db"}]
            for user, roles in (("reader", [{"role": "read", "db": "db"}]), ("nobody", []), ("finder", finder)):
                client.admin.command({"createUser": user, "pwd": "hushhush", "roles": roles})
        for user, ask in (
            ("root:hush-wrong", lambda made: made["k"]),
            ("nobody:hushhush", lambda made: made["k"]),
            ("nobody:hushhush", list),
            ("reader:hushhush", lambda made: made.update({"k": b"2"})),
            ("reader:hushhush", lambda made: made.clear()),
        ):
            made = GridFSMapping(f"mongodb://{user}{at}")
            with pytest.raises(StoreAccessError) as caught:
                ask(made)
            error: BaseException | None = caught.value
            while error is not None:
                assert "hush" not in f"{error} {error!r} {error.args}"
                error = error.__cause__ or error.__context__
            made.close()
        reader = open_store(f"mongodb://reader:hushhush{at}", read_only=True)
        assert reader.mapping["k"] == b"1"  # type: ignore[attr-defined]  # a MappingStore
        assert "absent" not in reader.mapping  # type: ignore[attr-defined]
        reader.close()
        narrow = GridFSMapping(f"mongodb://finder:hushhush{at}")  # who may not even list collections
        assert narrow["k"] == b"1"
        assert ("absent" in narrow, list(narrow)) == (False, ["k"])
        narrow.close()
        writer.close()
        server.stop()


# -- a lost place -----------------------------------------------------------------------------------------------------


def array_on(mapping: GridFSMapping) -> Any:
    array = zarr.create_array(MappingStore(mapping), name="a/b", shape=(8,), chunks=(2,), dtype="i4", fill_value=7)
    array[:2] = 1
    return array


@pytest.mark.parametrize("loss", ["database", "bucket", "files", "documents"])
def test_a_dropped_place_under_an_open_array_is_an_error(mapping: GridFSMapping, driver: Any, loss: str) -> None:
    """Never fill values: for whoever reads, lists, opens or writes on, and for a copy elsewhere."""
    array, database = array_on(mapping), driver[mapping.place.split("/")[3]]
    np.testing.assert_array_equal(array[:], [1, 1, 7, 7, 7, 7, 7, 7])
    copy = pickle.loads(pickle.dumps(mapping))
    if loss == "database":
        driver.drop_database(database.name)
    elif loss == "documents":
        database["arrays.files"].delete_many({})
    else:
        database["arrays.files"].drop()
        if loss == "bucket":
            database["arrays.chunks"].drop()
    for ask in (lambda: array[2:4], lambda: copy["a/b/c/1"], lambda: mapping.read_many(["a/b/c/0"])):
        with pytest.raises(StoreUnavailableError, match="is lost"):
            ask()
    if loss != "documents":
        for ask in (lambda: list(mapping), lambda: bool(mapping), lambda: list(mapping.children("a"))):
            with pytest.raises(StoreUnavailableError, match="is lost"):
                ask()
        with pytest.raises(StoreUnavailableError, match="is lost"):
            zarr.open_array(MappingStore(copy), path="a/b", mode="r")
        mapping._sight._looked = float("-inf")  # a second later
        with pytest.raises(StoreUnavailableError, match="is lost"):
            array[:2] = 2
    copy.close()
    mapping.close()
    assert list(mapping) == []  # it begins anew


def test_what_is_sparse_reads_as_its_fill_value(mapping: GridFSMapping, driver: Any) -> None:
    """And what this mapping itself has removed is gone, not lost; an unknown place is empty."""
    from zarrstream.mappings.gridfs import GridFSMapping

    array = array_on(mapping)
    np.testing.assert_array_equal(array[2:], np.full(6, 7))
    assert "a/b/c/3" not in mapping
    mapping.clear_under("a")
    for key in ("a/b/c/0", "a/b/zarr.json"):
        assert key not in mapping
    array_on(mapping)
    del mapping["a/b/zarr.json"]
    with pytest.raises(KeyError):
        mapping["a/b/c/3"]
    unknown = GridFSMapping(mapping._connection.where.url, bucket="nowhere")
    assert (list(unknown), "a/c/0" in unknown) == ([], False)
    unknown.close()


def test_concurrent_misses_share_a_probe_that_began_after_them(mapping: GridFSMapping) -> None:
    """Eight misses are two probes: one that runs, and one for all who came meanwhile; and none is kept."""
    array_on(mapping)
    running, go_on = threading.Event(), threading.Event()
    original, asked = mapping._sight._existing, []

    def slow(keys: list[str]) -> set[str]:
        asked.append(keys)
        running.set()
        assert go_on.wait(30)
        return original(keys)

    mapping._sight._existing = slow  # type: ignore[method-assign]
    first = threading.Thread(target=mapping.get, args=("a/b/c/1",))
    first.start()
    assert running.wait(30)
    others = [threading.Thread(target=mapping.get, args=(f"a/b/c/{number}",)) for number in (2, 3, 1, 2, 3, 1, 2)]
    for other in others:
        other.start()
    deadline = time.monotonic() + 30
    while mapping._sight._probes._next.asked < 7:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    go_on.set()
    for thread in (first, *others):
        thread.join()
    assert len(asked) == 2
    mapping.get("a/b/c/1")
    assert len(asked) == 3
