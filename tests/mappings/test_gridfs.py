"""What GridFS alone has: files that any client reads, pieces, revisions, batches, and zarr 2's documents."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.gridfs_buckets import BOTH, behind, bucket_of, counts, fresh_url
from tests.optional import require
from tests.services import mongodb_url
from zarrstream import MappingStore
from zarrstream.errors import PartialWriteError, StoreCorruptError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server
    from zarrstream.mappings.gridfs import GridFSMapping

pytestmark = pytest.mark.server
MIB = 1 << 20


@pytest.fixture(params=BOTH)
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]  # by name


@pytest.fixture
def mapping(server: Server) -> Iterator[GridFSMapping]:
    yield from bucket_of(server)


@pytest.fixture
def database(mapping: GridFSMapping) -> Iterator[Any]:
    yield from behind(mapping)


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


def test_the_newest_revision_is_ours_else_the_one_with_the_greatest_id(mapping: GridFSMapping, database: Any) -> None:
    """Whatever ``uploadDate`` says, and of whichever kinds the ids are."""
    gridfs = require("gridfs")
    bucket = gridfs.GridFSBucket(database, bucket_name="arrays")
    for id_, content in ((3, b"three"), (5, b"five"), (4, b"four")):
        bucket.upload_from_stream_with_id(id_, "exp/k", content)
    assert (mapping["k"], mapping.size("k"), mapping.read_many(["k"])) == (b"five", 4, {"k": b"five"})
    bucket.upload_from_stream_with_id({"a": 1}, "exp/k", b"a document")
    assert (mapping["k"], mapping.read_many(["k"])) == (b"a document", {"k": b"a document"})
    mapping["k"] = b"ours"
    bucket.upload_from_stream("exp/k", b"theirs")
    assert (mapping["k"], mapping.read_many(["k"])) == (b"ours", {"k": b"ours"})
    mapping["k"] = b"again"
    assert counts(database) == (1, 1)


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


def test_many_arrays_share_a_bucket(mapping: GridFSMapping) -> None:
    """One array's name is no prefix of another's."""
    from zarrstream.mappings.gridfs import GridFSMapping

    others = [
        GridFSMapping(mapping._connection.where.url, bucket="arrays", array_id=other) for other in ("ex", "exp2", "")
    ]
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


def test_a_batch_is_one_transaction(mongod: Server) -> None:
    """What is invalid in it leaves nothing; a batch over the limit says which were written."""
    from zarrstream.mappings.gridfs import GridFSMapping
    from zarrstream.mappings.gridfs import transactions as gridfs_writes

    mapping = GridFSMapping(fresh_url(mongod), bucket="arrays", array_id="exp")
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
    from zarrstream.mappings.gridfs import files as gridfs_files

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


def test_a_dropped_mapping_closes_its_client(server: Server) -> None:
    """The last of the process that shares it; the others go on with it."""
    from zarrstream.mappings.gridfs import GridFSMapping
    from zarrstream.mappings.gridfs import session as gridfs_client

    url = fresh_url(server)
    mapping, other = (GridFSMapping(url, array_id=array_id) for array_id in "ab")
    mapping["k"] = other["k"] = b"1"
    assert len(gridfs_client._clients) == 1
    del mapping
    gc.collect()
    assert other["k"] == b"1"
    del other
    gc.collect()
    assert not gridfs_client._clients


def test_no_mapping_gets_a_client_that_garbage_closes_at_that_moment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected wherever Python likes: also between the look for a client and the counting of its user."""
    from zarrstream.mappings.gridfs import GridFSMapping
    from zarrstream.mappings.gridfs import session as gridfs_client

    url = fresh_url(server)
    dropped = GridFSMapping(url, array_id="dropped")
    dropped["k"] = b"1"
    last: list[Any] = [dropped]
    del dropped

    class Collecting(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            last.clear()
            gc.collect()
            return found

    clients = gridfs_client._clients
    monkeypatch.setattr(gridfs_client, "_clients", Collecting(clients))
    clients.clear()
    mapping = GridFSMapping(url, array_id="dropped")
    assert mapping["k"] == b"1"
    mapping.close()
    assert not gridfs_client._clients


# -- zarr 2 -----------------------------------------------------------------------------------------------------------


def test_what_zarr_2_wrote_opens(mapping: GridFSMapping, database: Any) -> None:
    """Documents ``{key, value}`` as its MongoDBStore makes them, and zarr 2's reads what was written here."""
    from zarrstream.mappings.gridfs import GridFSMapping

    collection = database["zarr_collection"]
    metadata = (
        b'{"shape": [4], "chunks": [2], "dtype": "<i4", "compressor": null, "fill_value": 0, "filters": null, '
        b'"order": "C", "zarr_format": 2}'
    )
    for key, value in {".zarray": metadata, "0": np.array([1, 2], "<i4").tobytes()}.items():
        collection.replace_one({"key": key}, {"key": key, "value": value}, upsert=True)
    mapping = GridFSMapping(mapping._connection.where.url, layout="zarr-v2")
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
