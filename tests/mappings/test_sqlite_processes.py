"""SQLite under many threads and processes: all is there, nobody is locked out, nothing is carried through a fork."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu

from tests.processes import METHODS, in_child, run, use_inherited, write_chunks, write_keys
from zarrstream import MappingStore
from zarrstream.mappings.sqlite import SQLiteMapping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def mapping(tmp_path: Path) -> Iterator[SQLiteMapping]:
    made = SQLiteMapping(tmp_path / "x.db")
    yield made
    made.close()


def descriptors(mapping: SQLiteMapping) -> int:
    """Count the descriptors of this process that lead to the file or its log."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  # names are all we need
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]  # noqa: PTH115  # text, not paths
    return sum(target.startswith(str(mapping.path)) for target in targets)


def test_eight_processes_write_five_hundred_chunks_each(mapping: SQLiteMapping) -> None:
    """All of them begin before the file is there, and none is ever told "database is locked"."""
    run("fork", write_keys, [(mapping, number, 500) for number in range(8)])
    assert sorted(mapping) == sorted(f"{number}/{index}" for number in range(8) for index in range(500))
    assert all(value == key.encode() for key, value in mapping.items())


@pytest.mark.slow
def test_eight_processes_write_five_hundred_chunks_of_one_array(mapping: SQLiteMapping) -> None:
    store = MappingStore(mapping)
    array = zarr.create_array(store, shape=(8, 2000), chunks=(1, 4), dtype="i4", fill_value=0)
    run("spawn", write_chunks, [(store, number, 500) for number in range(8)])
    np.testing.assert_array_equal(array[:].ravel(), np.repeat(np.arange(4000) + 1, 4))
    assert len(list(mapping.keys_under("c/"))) == 4000


@pytest.mark.parametrize("durability", ["normal", "off"])
def test_what_was_acknowledged_survives_the_kill_of_its_process(tmp_path: Path, durability: Any) -> None:
    """Ten times over: count the acknowledgements, then look."""
    mapping = SQLiteMapping(tmp_path / "x.db", durability=durability)
    for life in range(10):
        reads, writes = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside zarr's threads
            child = os.fork()
        if not child:
            for number in itertools.count():
                mapping[f"{life}/{number}"] = bytes([number % 256]) * 5000
                os.write(writes, b".")
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
    mapping.close()


def test_readers_beside_the_first_write_see_nothing_or_all(tmp_path: Path) -> None:
    """Never an error, though they meet a file without a table."""
    failures: list[BaseException] = []
    for number in range(30):
        mapping = SQLiteMapping(tmp_path / f"{number}.db", durability="off")
        together = threading.Barrier(4)

        def read(mapping: SQLiteMapping = mapping, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                while not mapping.get("k"):
                    assert "other" not in mapping
            except BaseException as error:  # noqa: BLE001  # told to the test's own thread
                failures.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        together.wait()
        mapping["k"] = b"1"
        for reader in readers:
            reader.join()
        mapping.close()
    assert not failures


@pytest.mark.parametrize("method", METHODS)
def test_a_store_that_was_used_before_works_in_the_child(mapping: SQLiteMapping, method: str) -> None:
    store = MappingStore(mapping)
    store.set_sync("parent", cpu.Buffer.from_bytes(b"from the parent"))
    run(method, use_inherited, [(store,)])
    assert mapping["child"] == b"from the parent"
    mapping["parent"] = b"still writable here"


def test_no_connection_is_carried_through_a_fork(mapping: SQLiteMapping) -> None:
    mapping["k"] = b"1"
    assert descriptors(mapping) > 0

    def work() -> None:
        assert descriptors(mapping) == 0
        assert mapping["k"] == b"1"
        assert descriptors(mapping) > 0

    in_child(work)
    assert mapping["k"] == b"1"


def test_a_fork_in_the_midst_of_other_threads_writes(mapping: SQLiteMapping) -> None:
    """SQLite's table of locks is not in the child, which would wait for ever for a writer that is not there."""
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            mapping[f"{number}"] = bytes(10_000)
            mapping[f"{number}"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(10):
            in_child(lambda number=number: write_keys(mapping, number, 5))  # type: ignore[misc]  # bound now
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(mapping) == 54


def test_a_thread_takes_its_connection_with_it(mapping: SQLiteMapping) -> None:
    mapping["k"] = b"1"
    gc.collect()
    before = descriptors(mapping)
    for _ in range(20):
        thread = threading.Thread(target=mapping.__getitem__, args=("k",))
        thread.start()
        thread.join()
    # SQLite keeps one descriptor for the next connection: closing it would drop the locks of the process.
    assert descriptors(mapping) <= before + 1


def test_close_reaches_the_connections_of_all_threads(mapping: SQLiteMapping) -> None:
    """Each reconnects when it needs to."""
    read, closed = threading.Barrier(5), threading.Barrier(5)
    mapping["k"] = b"1"
    seen: list[bytes] = []

    def work() -> None:
        seen.append(mapping["k"])
        read.wait()
        closed.wait()
        seen.append(mapping["k"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    read.wait()
    mapping.close()
    assert descriptors(mapping) == 0
    closed.wait()
    for thread in threads:
        thread.join()
    assert seen == [b"1"] * 8


def test_close_among_working_threads_disturbs_none(mapping: SQLiteMapping) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            write_keys(mapping, number, 100)
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        mapping.close()
    assert not failures
    assert len(mapping) == 400


def test_a_dropped_mapping_leaves_no_descriptor(tmp_path: Path) -> None:
    mapping = SQLiteMapping(tmp_path / "x.db")
    mapping["k"] = b"1"
    other = SQLiteMapping(tmp_path / "x.db")
    del mapping
    gc.collect()
    assert descriptors(other) == 0
