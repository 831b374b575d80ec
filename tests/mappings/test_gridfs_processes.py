"""GridFS under processes and kills: nothing acknowledged is lost, nothing is left, no client crosses a fork."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import warnings
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu

from tests.optional import require
from tests.processes import METHODS, in_child, run, use_inherited, write_chunks, write_keys
from tests.services import mongodb_url
from zarrstream import MappingStore
from zarrstream.testing import MappingLaws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server
    from zarrstream.mappings.gridfs import GridFSMapping

pytestmark = pytest.mark.server


@pytest.fixture(params=["mongod", "lone_mongod"], ids=["set", "lone"])
def mapping(request: pytest.FixtureRequest) -> Iterator[GridFSMapping]:
    require("pymongo")
    from zarrstream.mappings.gridfs import GridFSMapping

    server: Server = request.getfixturevalue(request.param)
    made = GridFSMapping(mongodb_url(server, f"t{uuid4().hex}"), bucket="arrays", array_id="exp")
    yield made
    made.close()


class TestWithoutTransactions(MappingLaws):
    """The laws hold on a server that has none."""

    @pytest.fixture
    def mapping(self, lone_mongod: Server) -> Iterator[GridFSMapping]:
        from zarrstream.mappings.gridfs import GridFSMapping

        made = GridFSMapping(mongodb_url(lone_mongod, "laws"), array_id=uuid4().hex)
        yield made
        made.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_store_that_was_used_before_works_in_the_child(mapping: GridFSMapping, method: str) -> None:
    store = MappingStore(mapping)
    store.set_sync("parent", cpu.Buffer.from_bytes(b"from the parent"))
    run(method, use_inherited, [(store,)])
    assert mapping["child"] == b"from the parent"
    mapping["parent"] = b"still writable here"


def test_no_client_is_carried_through_a_fork(mapping: GridFSMapping) -> None:
    """The child has one of its own, and its end is not the parent's."""
    from zarrstream.mappings import gridfs_client

    mapping["k"] = b"1"
    (before,) = gridfs_client._clients.values()

    def work() -> None:
        assert not gridfs_client._clients
        assert mapping["k"] == b"1"
        (mine,) = gridfs_client._clients.values()
        assert mine is not before
        mapping.close()

    for _ in range(3):
        in_child(work)
        assert mapping["k"] == b"1"
    assert list(gridfs_client._clients.values()) == [before]


@pytest.mark.slow
def test_eight_processes_write_five_hundred_chunks_each(mapping: GridFSMapping) -> None:
    store = MappingStore(mapping)
    array = zarr.create_array(store, shape=(8, 2000), chunks=(1, 4), dtype="i4", fill_value=0)
    run("spawn", write_chunks, [(store, number, 500) for number in range(8)])
    np.testing.assert_array_equal(array[:].ravel(), np.repeat(np.arange(4000) + 1, 4))
    assert len(list(mapping.keys_under("c/"))) == 4000


def test_eight_processes_begin_at_once(mapping: GridFSMapping) -> None:
    """Before there is a bucket, and all of them make its indexes."""
    run("fork", write_keys, [(mapping, number, 10) for number in range(8)])
    assert sorted(mapping) == sorted(f"{number}/{index}" for number in range(8) for index in range(10))


def overwrite(mapping: GridFSMapping, told: int) -> None:
    """Overwrite one key for ever, and tell of each acknowledgement."""
    for version in itertools.count():
        mapping["k"] = b"%06d" % version * 700
        os.write(told, b".")


def killed(mapping: GridFSMapping, writes: int) -> int:
    """Return how many writes were acknowledged until the writer was killed in the midst of the next."""
    reads, tells = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside zarr's threads
        child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            overwrite(mapping, tells)
        os._exit(1)
    os.close(tells)
    seen = 0
    while seen < writes:
        seen += len(os.read(reads, writes - seen))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reads, 1000):
        seen += len(more)
    os.close(reads)
    return seen


@pytest.mark.parametrize(("kills", "writes"), [(4, 5), pytest.param(50, 20, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_nothing(
    mapping: GridFSMapping, kills: int, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old or new is there, never half; and when the time of its upload is over, the next writer sweeps what is left."""
    from zarrstream.mappings import gridfs_files, gridfs_staging

    monkeypatch.setattr(gridfs_files, "WHOLE", 1000)
    monkeypatch.setattr(gridfs_files, "PIECE", 500)
    monkeypatch.setattr(gridfs_staging, "ALIVE", 0.5)
    total = 0
    for _ in range(kills):
        seen = killed(mapping, writes)
        total += seen
        value = mapping["k"]
        assert value in {b"%06d" % (seen - 1) * 700, b"%06d" % seen * 700}
    assert total >= kills * writes
    where = mapping.place.split("/")
    with require("pymongo").MongoClient(f"mongodb://{where[2]}/?serverMonitoringMode=poll") as client:
        files, chunks = client[where[3]]["arrays.files"], client[where[3]]["arrays.chunks"]
        ids = set(files.distinct("_id"))
        assert not [piece for piece in chunks.distinct("files_id") if piece not in ids]  # at no time
        # The leftovers' time is over: as if half a second had gone by.
        files.update_many({"filename": None}, [{"$set": {"metadata.zarrstream_until": {"$subtract": ["$$NOW", 1]}}}])
        mapping["other"] = b"1"
        mapping._files.sweep()  # type: ignore[union-attr]  # as the next upload, or the next writer, does
        mapping["k"] = b"last" * 500
        assert sorted(files.distinct("filename")) == ["exp/k", "exp/other"]
        assert (files.count_documents({}), chunks.count_documents({})) == (2, 5)
    assert mapping["k"] == b"last" * 500


def test_a_live_upload_is_never_swept(lone_mongod: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose time is over, in a writer that had stopped, begins anew; one that is renewed goes on."""
    from zarrstream.mappings import gridfs_staging
    from zarrstream.mappings.gridfs import GridFSMapping

    url = mongodb_url(lone_mongod, f"t{uuid4().hex}")
    slow, other = GridFSMapping(url), GridFSMapping(url)
    other["first"] = b"1"
    insert, uploads = gridfs_staging.UploadedFiles._insert, []

    def stopped(self: Any, database: Any, pieces: Any) -> None:
        insert(self, database, pieces)
        uploads.append(pieces[0]["files_id"])
        if len(uploads) == 1:
            other._files.sweep()  # type: ignore[union-attr]  # alive: it stays
            assert database["fs.chunks"].count_documents({"files_id": uploads[0]}) == 1
        if len(uploads) == 2:
            database["fs.files"].update_one(
                {"_id": uploads[1]}, [{"$set": {"metadata.zarrstream_until": {"$subtract": ["$$NOW", 1]}}}]
            )
            other._files.sweep()  # type: ignore[union-attr]  # its time is over
            assert database["fs.chunks"].count_documents({"files_id": uploads[1]}) == 0

    monkeypatch.setattr(gridfs_staging.UploadedFiles, "_insert", stopped)
    slow["k"] = b"1"
    slow["k"] = b"2"
    assert len(set(uploads)) == 3
    assert other["k"] == b"2"
    slow.close()
    other.close()


def test_a_version_that_another_writer_took_is_counted_on(lone_mongod: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking for the newest and taking the next, somebody else takes it: the server's index says so."""
    from zarrstream.mappings import gridfs_staging
    from zarrstream.mappings.gridfs import GridFSMapping

    url = mongodb_url(lone_mongod, f"t{uuid4().hex}")
    mapping, other = GridFSMapping(url), GridFSMapping(url)
    mapping["k"] = b"0"
    insert, raced = gridfs_staging.UploadedFiles._insert, []

    def race(self: Any, database: Any, pieces: Any) -> None:
        insert(self, database, pieces)
        if not raced:
            raced.append(True)
            other["k"] = b"theirs"

    monkeypatch.setattr(gridfs_staging.UploadedFiles, "_insert", race)
    mapping["k"] = b"ours"
    assert (mapping["k"], other["k"]) == (b"ours", b"ours")
    raced.clear()
    assert mapping.setdefault("new", b"1") == b"1"
    mapping.close()
    other.close()
