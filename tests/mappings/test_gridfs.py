"""What GridFS alone has: files that any client reads, pieces, revisions, indexes, batches, and zarr 2's documents."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import zarr

from tests.optional import require
from tests.services import mongodb_url
from zarrstream import MappingStore
from zarrstream.errors import PartialWriteError, StoreCorruptError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Server
    from zarrstream.mappings.gridfs import GridFSMapping

pytestmark = pytest.mark.server
MIB = 1 << 20


@pytest.fixture(params=["mongod", "lone_mongod"], ids=["set", "lone"])
def server(request: pytest.FixtureRequest) -> Server:
    """A replica set, and a server without transactions."""
    require("pymongo")
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]  # by name


@pytest.fixture
def name() -> str:
    return f"t{uuid4().hex}"


@pytest.fixture
def mapping(server: Server, name: str) -> Iterator[GridFSMapping]:
    from zarrstream.mappings.gridfs import GridFSMapping

    made = GridFSMapping(mongodb_url(server, name), bucket="arrays", array_id="exp")
    yield made
    made.close()


@pytest.fixture
def database(server: Server, name: str) -> Iterator[Any]:
    """The driver's own view."""
    with require("pymongo").MongoClient(mongodb_url(server, name)) as client:
        yield client[name]


def counts(database: Any) -> tuple[int, int]:
    return database["arrays.files"].count_documents({}), database["arrays.chunks"].count_documents({})


def test_any_client_reads_a_file_and_we_read_what_it_wrote(mapping: GridFSMapping, database: Any) -> None:
    """Of one piece, of many, and of none; several revisions of one name are the newest by ``_id``."""
    bucket = require("gridfs").GridFSBucket(database, bucket_name="arrays")
    values = {"one": b"1" * 1000, "many": np.random.default_rng(0).bytes(15 * MIB + 7), "none": b""}
    mapping.update_many(values)
    for key, value in values.items():
        assert bucket.open_download_stream_by_name(f"exp/{key}").read() == value
    for content in (b"first", b"second" * 100_000):
        bucket.upload_from_stream("exp/theirs", content)
    assert mapping["theirs"] == b"second" * 100_000
    assert mapping.read("theirs", 255 * 1024 - 3, 255 * 1024 + 3) == (b"second" * 100_000)[261117:261123]
    assert mapping.size("theirs") == 600_000
    assert list(mapping.keys_under("theirs")) == ["theirs"]
    assert mapping.read_many(["theirs", "one"]) == {"theirs": b"second" * 100_000, "one": values["one"]}
    mapping["theirs"] = b"ours"
    assert [file.read() for file in bucket.find({"filename": "exp/theirs"})] == [b"ours"]
    del mapping["theirs"]
    assert "theirs" not in mapping


def test_a_value_under_fifteen_mib_is_one_piece(mapping: GridFSMapping, database: Any) -> None:
    mapping["k"] = bytes(15 * MIB - 1)
    assert counts(database) == (1, 1)
    mapping["k"] = bytes(15 * MIB)
    assert counts(database) == (1, 15)
    mapping["k"] = b""
    assert counts(database) == (1, 0)
    del mapping["k"]
    assert counts(database) == (0, 0)


@pytest.mark.slow
def test_a_chunk_of_64_mb(mapping: GridFSMapping, database: Any) -> None:
    value = np.random.default_rng(0).bytes(64_000_000)
    mapping["k"] = b"before"
    mapping["k"] = value
    assert mapping["k"] == value
    mapping["k"] = value[::-1]
    assert mapping.read("k", 5, 9) == value[::-1][5:9]
    assert counts(database) == (1, 62)


def queries(database: Any, work: Any) -> list[dict[str, Any]]:
    """Return what the server was asked while ``work`` ran."""
    database["system.profile"].drop()
    database.command("profile", 2)
    work()
    database.command("profile", 0)
    return [entry for entry in database["system.profile"].find() if "arrays." in entry["ns"]]


def test_a_read_is_two_queries_and_a_range_fetches_its_pieces(mapping: GridFSMapping, database: Any) -> None:
    mapping["small"] = bytes(1000)
    mapping["large"] = bytes(20 * MIB)
    for work, pieces in (
        (lambda: mapping["small"], 1),
        (lambda: mapping.read("large", MIB - 1, MIB + 1), 2),
        (lambda: mapping.read("large", -1), 1),
        (lambda: mapping.read_many(["small", "large"]), 21),
    ):
        asked = queries(database, work)
        assert [entry["op"] for entry in asked if entry["op"] != "getmore"] == ["query", "query"]
        assert sum(entry["nreturned"] for entry in asked if entry["ns"].endswith("chunks")) == pieces


def test_every_question_is_answered_by_an_index(mapping: GridFSMapping, database: Any) -> None:
    mapping.update_many((f"{name}/c/{number}", b"1") for name in "abc" for number in range(50))

    def work() -> None:
        mapping["a/c/7"] = b"2"
        assert mapping["a/c/7"] == b"2"
        assert mapping.read_many(["a/c/8", "b/c/9"])
        assert mapping.size("a/c/7") == 1
        assert mapping.setdefault("new", b"3") == b"3"
        assert len(mapping) == 151
        assert "x" not in mapping
        assert list(mapping.children("")) == ["a", "b", "c", "new"]
        del mapping["new"]
        mapping.clear_under("a")
        assert len(mapping) == 100

    plans = {entry.get("planSummary") for entry in queries(database, work)}
    assert any("IXSCAN { filename: 1" in str(plan) for plan in plans)
    assert not any("COLLSCAN" in str(plan) or "regex" in str(plan) for plan in plans)


def test_children_are_found_without_visiting_what_is_beneath(mapping: GridFSMapping, database: Any) -> None:
    """Hundreds of keys under three names are a few pages of 32."""
    mapping.update_many((f"{name}/c/{number}", b"") for name in "abc" for number in range(300))
    asked = queries(database, lambda: [list(mapping.children("")), list(mapping.children("b"))])
    assert sum(entry["nreturned"] for entry in asked) < 200
    assert sum(entry["keysExamined"] for entry in asked) < 250
    assert list(mapping.children("")) == ["a", "b", "c"]
    assert sorted(mapping.children("b/c")) == sorted(map(str, range(300)))


def test_a_listing_goes_on_over_many_pages_and_leaves_no_cursor(mapping: GridFSMapping, database: Any) -> None:
    keys = sorted(f"c/{number}" for number in range(1100))
    mapping.update_many((key, b"") for key in keys)
    listing = iter(mapping)
    assert next(listing) == keys[0]
    opened = database.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"]
    assert opened == 0
    assert [keys[0], *listing] == keys
    mapping.clear()
    assert counts(database) == (0, 0)


def test_many_arrays_share_a_bucket(mapping: GridFSMapping, server: Server, name: str) -> None:
    """One array's name is no prefix of another's."""
    from zarrstream.mappings.gridfs import GridFSMapping

    others = [GridFSMapping(mongodb_url(server, name), bucket="arrays", array_id=other) for other in ("ex", "exp2", "")]
    for made in (mapping, *others):
        made["k"] = made.place.encode()
    assert [list(made) for made in (mapping, *others[:2])] == [["k"]] * 3
    assert sorted(others[2]) == ["ex/k", "exp/k", "exp2/k", "k"]
    mapping.clear()
    assert [len(made) for made in others] == [1, 1, 3]
    for made in others:
        made.close()


def test_a_file_without_its_pieces_is_corrupt(mapping: GridFSMapping, database: Any) -> None:
    """It is neither "absent" nor shorter."""
    mapping.update_many({"k": b"1", "l": b"2"})
    database["arrays.chunks"].delete_many({})
    for ask in (lambda: mapping["k"], lambda: mapping.read_many(["k", "l"]), lambda: mapping.read("k", 0, 1)):
        with pytest.raises(StoreCorruptError, match="lacks pieces"):
            ask()


def test_a_batch_is_one_transaction(mongod: Server, name: str) -> None:
    """What is invalid in it leaves nothing; a batch over the limit says which were written."""
    from zarrstream.mappings import gridfs_writes
    from zarrstream.mappings.gridfs import GridFSMapping

    mapping = GridFSMapping(mongodb_url(mongod, name), bucket="arrays", array_id="exp")
    mapping["k"] = b"before"
    fail = {"configureFailPoint": "failCommand", "mode": {"times": 1}}
    with require("pymongo").MongoClient(mongodb_url(mongod)) as client:
        client.admin.command({**fail, "data": {"failCommands": ["commitTransaction"], "errorCode": 14031}})
        with pytest.raises(StoreError, match="no room"):
            mapping.update_many({"k": b"after", "l": b"1"})
        assert dict(mapping) == {"k": b"before"}
        seen: list[int] = []
        original = gridfs_writes.WritableFiles._put

        def put(self: Any, batch: Any, **options: Any) -> bool:
            seen.append(len(batch))
            if len(seen) == 2:
                raise StoreError("the second batch fails")
            return original(self, batch, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gridfs_writes.WritableFiles, "_put", put)
            with pytest.raises(PartialWriteError) as caught:
                mapping.update_many((f"c/{number}", b"1") for number in range(700))
    assert seen == [500, 200]
    assert caught.value.written == tuple(f"c/{number}" for number in range(500))
    assert len(mapping) == 501
    mapping.close()


def test_a_range_is_of_one_version_beside_a_writer(mapping: GridFSMapping) -> None:
    """No reader sees half a value, or none: neither of one piece nor of many; whatever is written beside it."""
    from zarrstream.mappings import gridfs_files

    stop, failures = threading.Event(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gridfs_files, "WHOLE", 1000)
        patch.setattr(gridfs_files, "PIECE", 400)
        for key in ("one", "many"):
            mapping[key] = b"0" * 500

        def write() -> None:
            for version in range(40):
                mapping["one"] = b"%d" % (version % 10) * 700
                mapping["many"] = b"%d" % (version % 10) * (1200 + version)
            stop.set()

        def read() -> None:
            try:
                while not stop.is_set():
                    for value in (*mapping.read_many(["one", "many"]).values(), mapping.read("many", 100, 500)):
                        assert len(set(value)) == 1
                        assert len(value) >= 400
                    assert len(mapping.read_many(["one", "many"])) == 2
            except BaseException as error:  # noqa: BLE001  # told to the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_writers_at_one_key_take_turns(mapping: GridFSMapping, database: Any) -> None:
    """All succeed, one is there at the end, and nothing of the others."""

    def write(number: int) -> None:
        for _ in range(10):
            mapping["k"] = b"%d" % number

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mapping["k"] in {b"0", b"1", b"2", b"3"}
    assert counts(database) == (1, 1)


def test_clocks_do_not_matter(mapping: GridFSMapping, database: Any) -> None:
    """A revision of ours stands before one that seems to come from the future, and replaces it."""
    mapping["k"] = b"1"
    database["arrays.files"].update_many({}, [{"$set": {"uploadDate": {"$add": ["$$NOW", 10**12]}}}])
    mapping["k"] = b"2"
    assert mapping["k"] == b"2"
    assert counts(database) == (1, 1)


def test_close_ends_the_drivers_threads(mapping: GridFSMapping) -> None:
    """Within a second, also for a mapping that is merely dropped."""
    mapping["k"] = b"1"
    assert any(thread.name.startswith("pymongo") for thread in threading.enumerate())
    mapping.close()
    deadline = time.monotonic() + 5
    while found := [thread for thread in threading.enumerate() if thread.name.startswith("pymongo")]:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


# -- zarr 2 -----------------------------------------------------------------------------------------------------------


def test_what_zarr_2_wrote_opens(server: Server, database: Any, name: str) -> None:
    """Documents ``{key, value}`` as its MongoDBStore makes them, and zarr 2's reads what was written here."""
    from zarrstream.mappings.gridfs import GridFSMapping

    collection = database["zarr_collection"]
    metadata = (
        b'{"shape": [4], "chunks": [2], "dtype": "<i4", "compressor": null, "fill_value": 0, "filters": null, '
        b'"order": "C", "zarr_format": 2}'
    )
    for key, value in {".zarray": metadata, "0": np.array([1, 2], "<i4").tobytes()}.items():
        collection.replace_one({"key": key}, {"key": key, "value": value}, upsert=True)
    mapping = GridFSMapping(mongodb_url(server, name), layout="zarr-v2")
    array = zarr.open_array(MappingStore(mapping), mode="r+")
    np.testing.assert_array_equal(array[:], [1, 2, 0, 0])
    array[2:] = 5
    assert collection.find_one({"key": "1"})["value"] == np.array([5, 5], "<i4").tobytes()
    with pytest.raises(StoreError, match="16 MiB"):
        mapping["large"] = bytes(16 * MIB)
    collection.insert_one({"key": "text", "value": "no bytes"})
    with pytest.raises(StoreCorruptError, match="binary"):
        mapping["text"]
    mapping.close()
