"""GridFS under processes and kills: nothing acknowledged is lost, nothing is left, no client crosses a fork."""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.gridfs_buckets import fresh_url
from tests.optional import require
from tests.processes import forked, in_child
from tests.services import mongodb_url
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


def test_no_client_is_carried_through_a_fork(mapping: GridFSMapping) -> None:
    """The child has one of its own, and its end is not the parent's."""
    from zarrstream.mappings.gridfs import session as gridfs_client

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


def overwrite(mapping: GridFSMapping, told: int) -> None:
    """Overwrite one key for ever, and tell of each acknowledgement."""
    for version in itertools.count():
        mapping["k"] = b"%06d" % version * 700
        os.write(told, b".")


def killed(mapping: GridFSMapping, writes: int) -> int:
    """Return how many writes were acknowledged until the writer was killed in the midst of the next."""
    reads, tells = os.pipe()
    child = forked(lambda: overwrite(mapping, tells))
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
    from zarrstream.mappings.gridfs import files as gridfs_files
    from zarrstream.mappings.gridfs import uploads as gridfs_staging

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


@pytest.mark.slow
def test_a_writer_waits_for_the_transaction_of_one_that_was_killed(mongod: Server) -> None:
    """The server keeps it for a time (10 s here), and what it would have removed is held until then."""
    from zarrstream.mappings.gridfs import GridFSMapping

    mapping = GridFSMapping(fresh_url(mongod), bucket="arrays", array_id="exp")
    mapping["k"] = b"old"
    reads, tells = os.pipe()

    def halfway() -> None:
        def remove(database: Any, session: Any) -> None:
            database["arrays.files"].delete_many({"filename": "exp/k"}, session=session)
            os.write(tells, b".")
            signal.pause()

        mapping._connection.transaction(remove)

    child = forked(halfway)
    assert os.read(reads, 1) == b"."
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    os.close(tells)
    assert mapping["k"] == b"old"
    mapping["k"] = b"new"
    assert mapping["k"] == b"new"
    mapping.close()


def test_a_live_upload_is_never_swept(lone_mongod: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose time is over, in a writer that had stopped, begins anew; one that is renewed goes on."""
    from zarrstream.mappings.gridfs import GridFSMapping
    from zarrstream.mappings.gridfs import uploads as gridfs_staging

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
    from zarrstream.mappings.gridfs import GridFSMapping
    from zarrstream.mappings.gridfs import uploads as gridfs_staging

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
