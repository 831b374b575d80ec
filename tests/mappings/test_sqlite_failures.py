"""What SQLite says when it fails: our error, the path and the remedy, and never "absent"."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends import V2_TABLE
from tests.processes import in_child
from tests.sqlite_files import limited, rows
from zarrstream.errors import (
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreUnavailableError,
)
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.sqlite import session as sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, and it is long enough to be seen as none" * 100)


def damaged(path: Path) -> None:
    mapping = SQLiteMapping(path)
    mapping.update_many((f"k{number}", bytes(5000)) for number in range(100))
    mapping.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)


def other_table(path: Path) -> None:
    rows(path, "CREATE TABLE zarr(key, value)")


def other_encoding(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA encoding = 'UTF-16'")
    connection.execute(V2_TABLE)
    connection.close()


@pytest.mark.parametrize("spoil", [garbage, damaged, other_table, other_encoding])
def test_a_file_that_is_not_what_it_should_be_is_corrupt(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    mapping = SQLiteMapping(path)
    with pytest.raises(StoreCorruptError, match=str(path)):
        mapping["k1"]
    with pytest.raises(StoreCorruptError, match=str(path)):
        mapping["k1"] = b""


def test_a_locked_database_is_unavailable_after_the_timeout(path: Path) -> None:
    """And it is written to when the lock goes away within it."""
    mapping = SQLiteMapping(path, busy_timeout=0.1)
    mapping["k"] = b"1"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="busy_timeout"):
        mapping["k"] = b"2"
    assert mapping["k"] == b"1"  # readers wait for nobody
    patient = SQLiteMapping(path, busy_timeout=30)
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    release.start()
    patient["k"] = b"3"
    release.join()
    other.close()
    assert mapping["k"] == b"3"


def test_a_reader_does_not_block_a_writer(path: Path) -> None:
    mapping = SQLiteMapping(path, busy_timeout=0.1)
    mapping["k"] = b"1"
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT v FROM zarr").fetchone() == (b"1",)
    mapping["k"] = b"2"
    assert (reader.execute("SELECT v FROM zarr").fetchone(), mapping["k"]) == ((b"1",), b"2")
    reader.close()


def test_a_full_disk_loses_nothing(path: Path) -> None:
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"
    lift = limited(mapping)
    with pytest.raises(StoreFullError, match="free space"):
        mapping["l"] = bytes(1 << 20)
    assert dict(mapping) == {"k": b"1"}
    lift()
    mapping["l"] = b"2"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    mapping = SQLiteMapping(tmp_path / "nowhere" / "x.db")
    assert list(mapping) == []
    with pytest.raises(StoreUnavailableError, match="make the folder"):
        mapping["k"] = b"1"


def test_a_folder_and_a_file_on_the_way_are_told(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StoreOptionError, match="is a folder"):
        list(SQLiteMapping(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match="has no folder"):
        SQLiteMapping(path / "y.db")["k"] = b"1"
    with pytest.raises(StoreUnavailableError, match="has no folder"):
        list(SQLiteMapping(path / "y.db"))


def test_a_value_over_sqlites_limit_is_refused(path: Path) -> None:
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"
    mapping._file.call(lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000))
    with pytest.raises(StoreError, match="smaller chunks"):
        mapping["k"] = bytes(2000)
    assert mapping["k"] == b"1"


def test_a_dropped_table_is_an_error(path: Path) -> None:
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"
    rows(path, "DROP TABLE zarr")
    with pytest.raises(StoreError, match="no such table"):
        mapping["k"]


def test_a_file_that_another_one_replaces_is_opened_anew(path: Path) -> None:
    mapping = SQLiteMapping(path)
    mapping["k"] = b"old"
    mapping._file._links.close()
    assert mapping["k"] == b"old"
    other = SQLiteMapping(path.with_name("y.db"))
    other["k"] = b"new"
    other.close()
    mapping._file._links.close()
    os.replace(path.with_name("y.db"), path)  # noqa: PTH105  # the name says it
    assert mapping["k"] == b"new"
    mapping["k"] = b"newer"
    assert rows(path, "SELECT v FROM zarr") == [(b"newer",)]


def as_nobody(work: Callable[[], None]) -> None:
    """Run in a child without root's rights, which no permission binds."""

    def unprivileged() -> None:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        work()

    in_child(unprivileged)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_folder_is_read_and_says_why_it_is_not_written(shared: Path) -> None:
    """A finished file in WAL mode has no log beside it, and is read as it is."""
    path = shared / "x.db"
    mapping = SQLiteMapping(path)
    mapping["k"] = b"0123"
    mapping.close()
    path.chmod(0o644)
    shared.chmod(0o555)

    def work() -> None:
        reader = SQLiteMapping(path)
        assert (reader["k"], reader.read("k", 1, 3), list(reader)) == (b"0123", b"12", ["k"])
        with pytest.raises(StoreAccessError, match="writable"):
            reader["k"] = b"4"
        with pytest.raises(StoreAccessError, match="writable"):
            SQLiteMapping(shared / "new.db")["k"] = b"4"
        assert reader["k"] == b"0123"
        reader.close()

    as_nobody(work)


def test_a_read_only_file_is_read_and_says_why_it_is_not_written(shared: Path) -> None:
    path = shared / "x.db"
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"
    mapping.close()
    path.chmod(0o444)
    shared.chmod(0o777)

    def work() -> None:
        reader = SQLiteMapping(path)
        assert reader["k"] == b"1"
        with pytest.raises(StoreAccessError, match="read_only=True"):
            reader["k"] = b"2"
        reader.close()

    as_nobody(work)


def test_a_file_that_may_not_be_read_says_so(shared: Path) -> None:
    path = shared / "x.db"
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"
    mapping.close()
    path.chmod(0)

    def work() -> None:
        with pytest.raises(StoreAccessError):
            SQLiteMapping(path)["k"]

    as_nobody(work)


def test_where_no_log_can_be_kept_every_write_waits_for_the_disk(path: Path) -> None:
    """In rollback mode, "normal" could lose the file in a power loss."""
    connection = sqlite3.connect(":memory:", isolation_level=None)  # answers "memory" to journal_mode = WAL
    connection.execute("PRAGMA synchronous = NORMAL")
    sqlite_file._prepare(connection, "normal")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()
