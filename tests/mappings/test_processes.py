"""What many processes and threads may write to at once: all is there, nobody is refused, nothing crosses a fork."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu

from tests.backends import ROWS, Row, opened
from tests.gridfs_buckets import bucket_of
from tests.optional import require
from tests.processes import METHODS, forked, in_child, run, use_inherited, write_chunks, write_keys
from tests.programs import Server, marks
from tests.services import postgresql_url
from zarrstream import ByteMapping, MappingStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _gridfs(_: Path, server: Server) -> ByteMapping:
    return next(bucket_of(server))


def _postgresql(_: Path, server: Server) -> ByteMapping:
    require("psycopg")
    from zarrstream.mappings.postgresql import PostgreSQLMapping

    return PostgreSQLMapping(postgresql_url(server), table_name=f"t{uuid4().hex}")


# The rows of the one table that any number of processes write to; on a server each test begins where nothing is yet.
_TABLE = {row.name: row for row in ROWS}
FILES = [_TABLE[name] for name in ("sqlite", "sqlite-off", "lmdb", "shm")]
MONGODB = [replace(_TABLE["mongodb"], make=_gridfs), Row("mongodb-lone", _gridfs, service="lone_mongod")]
POSTGRESQL = [replace(_TABLE["postgresql"], make=_postgresql)]


def each(*rows: Row) -> pytest.MarkDecorator:
    """Run a test, or a class of tests, with each of these rows."""
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=marks(row.service)) for row in rows])


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from opened(row, tmp_path, request)


@each(*FILES, *MONGODB, *POSTGRESQL)
class TestManyWriters:
    def test_eight_processes_write_at_once(self, row: Row, mapping: ByteMapping) -> None:
        """They begin before file, folder, table or indexes are there, and none is told that another was faster."""
        count = 10 if row in MONGODB else 500
        run("fork", write_keys, [(mapping, number, count) for number in range(8)])
        assert sorted(mapping) == sorted(f"{number}/{index}" for number in range(8) for index in range(count))
        assert all(value == key.encode() for key, value in mapping.items())

    @pytest.mark.slow
    def test_eight_processes_write_five_hundred_chunks_of_one_array(self, mapping: ByteMapping) -> None:
        store = MappingStore(mapping)
        array: Any = zarr.create_array(store, shape=(8, 2000), chunks=(1, 4), dtype="i4", fill_value=0)
        run("spawn", write_chunks, [(store, number, 500) for number in range(8)])
        np.testing.assert_array_equal(array[:].ravel(), np.repeat(np.arange(4000) + 1, 4))
        assert len(list(mapping.keys_under("c/"))) == 4000

    @pytest.mark.parametrize("method", METHODS)
    def test_a_store_that_was_used_before_works_in_the_child(self, mapping: ByteMapping, method: str) -> None:
        store = MappingStore(mapping)
        store.set_sync("parent", cpu.Buffer.from_bytes(b"from the parent"))
        run(method, use_inherited, [(store,)])
        assert mapping["child"] == b"from the parent"
        mapping["parent"] = b"still writable here"

    def test_close_among_working_threads_disturbs_none(self, row: Row, mapping: ByteMapping) -> None:
        count = 10 if row.service else 100

        def work(number: int) -> None:
            for index in range(count):
                mapping[f"{number}/{index}"] = b"%d" % index
                assert mapping[f"{number}/{index}"] == b"%d" % index

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work, number) for number in range(4)]
            while not all(one.done() for one in working):
                mapping.close()
                time.sleep(0.001)  # so that each round finds something open
        for one in working:
            one.result()
        assert len(mapping) == 4 * count


@each(*FILES, *POSTGRESQL)
def test_a_fork_in_the_midst_of_other_threads_writes(mapping: ByteMapping) -> None:
    """What a thread holds at that moment is not held for ever in the child: no lock, no writer that will never end."""
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            mapping[f"{number}"] = bytes(10_000)
            assert mapping[f"{number}"] == bytes(10_000)

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        try:
            for number in range(10):
                in_child(lambda number=number: write_keys(mapping, number, 5))  # type: ignore[misc]  # bound now
        finally:
            stop.set()
    for one in working:
        one.result()
    assert len(mapping) == 4 + 50


@each(*FILES, *POSTGRESQL)
def test_what_was_acknowledged_survives_the_kill_of_its_process(mapping: ByteMapping) -> None:
    """Ten times over: count the acknowledgements, then look."""
    for life in range(10):
        reads, writes = os.pipe()

        def work(life: int = life, writes: int = writes) -> None:
            for number in itertools.count():
                mapping[f"{life}/{number}"] = bytes([number % 256]) * 5000
                os.write(writes, b".")

        child = forked(work)
        os.close(writes)
        acknowledged = len(os.read(reads, 1))
        while acknowledged < 20 + 7 * life:
            acknowledged += len(os.read(reads, 100))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reads, 1000):
            acknowledged += len(more)
        os.close(reads)
        found = {key: mapping[key] for key in mapping.keys_under(f"{life}/")}
        assert len(found) in {acknowledged, acknowledged + 1}
        assert all(found[f"{life}/{number}"] == bytes([number % 256]) * 5000 for number in range(acknowledged))
