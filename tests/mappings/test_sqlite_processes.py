"""SQLite under many threads and processes: all is there, nobody is locked out, nothing is carried through a fork."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.processes import in_child
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


def test_no_connection_is_carried_through_a_fork(mapping: SQLiteMapping) -> None:
    mapping["k"] = b"1"
    assert descriptors(mapping) > 0

    def work() -> None:
        assert descriptors(mapping) == 0
        assert mapping["k"] == b"1"
        assert descriptors(mapping) > 0

    in_child(work)
    assert mapping["k"] == b"1"


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


def test_a_dropped_mapping_leaves_no_descriptor(tmp_path: Path) -> None:
    mapping = SQLiteMapping(tmp_path / "x.db")
    mapping["k"] = b"1"
    other = SQLiteMapping(tmp_path / "x.db")
    del mapping
    gc.collect()
    assert descriptors(other) == 0
