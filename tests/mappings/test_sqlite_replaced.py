"""A SQLite file that is replaced, interrupted, read beside a writer, or opened when it could not be written."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import in_child
from tests.sqlite_files import rows
from zarrstream.errors import StoreAccessError, StoreCorruptError, StoreUnavailableError
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.sqlite import session as sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder in which everybody may write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def made(path: Path, tag: str, count: int, size: int) -> SQLiteMapping:
    """Return a mapping of values that say whose they are."""
    mapping = SQLiteMapping(path)
    mapping.update_many({f"c/{at}": f"{tag}{at} ".encode() * size for at in range(count)})
    return mapping


# -- replaced ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [1, 2, 3])
@pytest.mark.parametrize("write", [False, True])
def test_a_replaced_file_is_read_and_written_as_it_is(path: Path, users: int, write: bool) -> None:
    """The old file's log lies at the path, and is never taken for the new one's, whichever mapping looks first."""
    made(path.with_name("new.db"), "new", 300, 600).close()
    mappings = [made(path, "old", 200, 1100), *(SQLiteMapping(path) for _ in range(users - 1))]
    for mapping in mappings:
        assert mapping["c/0"].startswith(b"old")
    os.replace(path.with_name("new.db"), path)  # noqa: PTH105  # the name says it
    for mapping in reversed(mappings):
        assert len(mapping) == 300
        assert mapping["c/0"].startswith(b"new0 ")
        assert "c/250" in mapping
        if write:
            mapping["c/0"] = b"new0 again"
    for mapping in mappings:
        mapping.close()
    assert rows(path, "SELECT substr(v, 1, 3), count(*) FROM zarr GROUP BY 1") == [(b"new", 300)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_threads_that_have_the_old_file_open_go_over_to_the_new_one(path: Path) -> None:
    """Each thread has a connection of its own, and each notices."""
    made(path.with_name("new.db"), "new", 30, 600).close()
    mapping = made(path, "old", 20, 1100)
    both, replaced = threading.Barrier(4), threading.Event()
    found: list[bytes] = []

    def read() -> None:
        assert mapping["c/0"].startswith(b"old")
        both.wait(30)
        assert replaced.wait(30)
        mapping["c/0"] = b"new"
        found.append(bytes(mapping["c/1"][:3]))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    both.wait(30)
    os.replace(path.with_name("new.db"), path)  # noqa: PTH105  # the name says it
    replaced.set()
    for thread in threads:
        thread.join()
    assert found == [b"new"] * 3
    mapping.close()
    assert rows(path, "SELECT count(*) FROM zarr WHERE substr(v, 1, 3) = x'6e6577'") == [(30,)]


# -- interrupted ------------------------------------------------------------------------------------------------------


class Interrupting:
    """A connection whose calls raise what a signal handler would, as the one that was chosen returns."""

    def __init__(self, connection: sqlite3.Connection, statement: str) -> None:
        self._connection, self._statement = connection, statement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        result = self._connection.execute(statement, *arguments)
        if self._statement and statement.startswith(self._statement):
            self._statement = ""
            raise KeyboardInterrupt
        return result


VERBS: dict[str, Callable[[SQLiteMapping], object]] = {
    "update_many": lambda mapping: mapping.update_many({"b": b"2", "c": b"3"}),
    "setdefault": lambda mapping: mapping.setdefault("b", b"2"),
    "pop": lambda mapping: mapping.pop("a"),
    "read": lambda mapping: mapping.read("a", 0, 1),
}


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_interrupt_as_a_statement_returns_leaves_no_transaction(path: Path, verb: str, statement: str) -> None:
    """What is acknowledged afterwards is there for everybody, and nobody is locked out."""
    mapping = SQLiteMapping(path)
    mapping["a"] = b"1"
    link = mapping._file._links.get()
    real: Any = link.connection
    link.connection = Interrupting(real, statement)
    with pytest.raises(KeyboardInterrupt):
        VERBS[verb](mapping)
    link.connection = real
    mapping["acknowledged"] = b"precious"
    other = SQLiteMapping(path, busy_timeout=1)
    assert other["acknowledged"] == b"precious"
    other["x"] = b"1"
    other.close()
    mapping.close()
    assert "acknowledged" in SQLiteMapping(path)


def test_an_interrupt_while_a_writer_waits_leaves_its_turn(path: Path) -> None:
    """A batch that waited for another process's write and was interrupted keeps no lock of this process."""
    mapping = SQLiteMapping(path)
    mapping["a"] = b"1"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        # SQLite waits in C, for as long as it may: the signal is heard when somebody lets it go on.
        threading.Timer(0.2, other.execute, ("COMMIT",)).start()
        with pytest.raises(KeyboardInterrupt):
            mapping.update_many({"b": b"2"})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    other.close()
    done: list[bytes] = []

    def write() -> None:
        mapping["c"] = b"3"
        done.append(mapping["c"])

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert done == [b"3"]
    mapping.close()


def test_a_turn_that_an_interrupt_took_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised as the lock is taken, in the only place that knows of it."""
    mapping = SQLiteMapping(path)
    mapping["a"] = b"1"
    take = mapping._file._take_turn

    def interrupted() -> None:
        take()
        raise KeyboardInterrupt

    monkeypatch.setattr(mapping._file, "_take_turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapping["b"] = b"2"
    monkeypatch.undo()
    thread = threading.Thread(target=mapping.__setitem__, args=("c", b"3"))
    thread.start()
    thread.join()
    assert mapping["c"] == b"3"


# -- beside a writer --------------------------------------------------------------------------------------------------


def test_a_reader_without_rights_reads_nothing_that_is_not_committed(shared: Path) -> None:
    """A file with a rollback journal that somebody is writing is locked, and is never read as it stands."""
    shared.chmod(0o755)
    path = shared / "v2.sqldb"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("CREATE TABLE zarr(k TEXT PRIMARY KEY, v BLOB)")
    writer.executemany("INSERT INTO zarr VALUES(?, ?)", [(f"a/{at}", b"O" * 30000) for at in range(60)])
    writer.execute("PRAGMA cache_size = 5")
    writer.execute("BEGIN EXCLUSIVE")
    writer.executemany("UPDATE zarr SET v = ? WHERE k = ?", [(b"N" * 30000, f"a/{at}") for at in range(30)])

    def read() -> None:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        mapping = SQLiteMapping(path, busy_timeout=0.1)
        for at in (0, 29, 59):
            with pytest.raises(StoreUnavailableError, match="is locked"):
                mapping[f"a/{at}"]

    in_child(read)
    writer.close()


def test_a_log_beside_busy_readers_is_begun_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not grow for as long as somebody reads."""
    monkeypatch.setattr(sqlite_file, "_LOG_BYTES", 1 << 20)
    monkeypatch.setattr(sqlite_file, "_TRIMMED_AFTER", 4)
    mapping = SQLiteMapping(path)
    mapping.update_many({"k": bytes(1 << 18)})
    mapping["l"] = b"1"  # so that the log is looked at when nobody has a snapshot
    reader = sqlite3.connect(path, isolation_level=None)
    sizes = []
    for _ in range(60):
        reader.execute("BEGIN")
        reader.execute("SELECT v FROM zarr").fetchall()  # at every moment somebody has a snapshot, each in turn
        mapping["k"] = os.urandom(1 << 18)
        reader.execute("COMMIT")
        mapping["l"] = b"1"
        sizes.append(path.with_name("x.db-wal").stat().st_size)
    assert max(sizes) < 6 << 20
    reader.close()
    mapping.close()


# -- what may not be written, and what is not zarr's ------------------------------------------------------------------


def test_a_file_that_may_be_written_again_is_written(shared: Path) -> None:
    """The mode is looked at when it matters, and what else stands in the way is named."""
    path = shared / "x.db"

    def work() -> None:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        mapping = SQLiteMapping(path)
        mapping["k"] = b"1"
        mapping.close()
        path.chmod(0o444)
        with pytest.raises(StoreAccessError):
            mapping["k"] = b"2"
        path.chmod(0o644)
        with pytest.raises(StoreAccessError, match="beside it may not be written: SQLite made"):
            mapping["k"] = b"2"
        for suffix in ("-wal", "-shm"):
            path.with_name(f"x.db{suffix}").chmod(0o644)
        mapping["k"] = b"2"
        assert mapping["k"] == b"2"

    in_child(work)


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
def test_a_table_that_takes_two_keys_for_one_is_refused(path: Path, collation: str) -> None:
    """zarr's keys differ by case and by blanks."""
    rows(path, f"CREATE TABLE zarr(k TEXT PRIMARY KEY COLLATE {collation}, v BLOB)")
    with pytest.raises(StoreCorruptError, match="collation BINARY"):
        SQLiteMapping(path)["a"] = b"1"


def test_a_text_is_no_value_for_any_verb(path: Path) -> None:
    """Its length in characters is not its length in bytes."""
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"
    rows(path, "INSERT INTO zarr VALUES('t', 'häé')")
    for verb in (
        lambda: mapping["t"],
        lambda: mapping.read("t"),
        lambda: mapping.read("t", 0, 2),
        lambda: mapping.size("t"),
    ):
        with pytest.raises(StoreCorruptError, match="not a BLOB"):
            verb()
