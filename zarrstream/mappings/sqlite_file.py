"""The connections to one SQLite file: when they are made, what they are good for, and how long a call insists."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zarrstream.errors import StoreCorruptError, StoreUnavailableError
from zarrstream.mappings import sqlite_sql as sql
from zarrstream.mappings.deadlines import at_most
from zarrstream.mappings.links import Link, ThreadLinks
from zarrstream.mappings.sqlite_errors import passes, translated, unopenable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
Connection = sqlite3.Connection
Durability = Literal["full", "normal", "off"]
#: For how long a value may be read from what is open before the path is looked at again.
_TRUSTED_SECONDS = 0.01


@contextmanager
def transaction(connection: Connection, kind: str) -> Iterator[None]:
    """Hold one transaction, ``"IMMEDIATE"`` to write or ``"DEFERRED"`` to read; an error rolls it back."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself after some errors, a full disk for one
            connection.execute("ROLLBACK")
        raise


class SQLiteFile:
    """One SQLite file with zarr's table, for any number of threads.

    Parameters
    ----------
    path : str
        The absolute path.
    durability : {"full", "normal", "off"}
        SQLite's ``synchronous``.
    busy_timeout : float
        How long a call insists, in seconds, while others hold the file.
    seen : bool
        Whether the table has been there: if so, its absence is an error, not emptiness.
    """

    def __init__(self, path: str, *, durability: Durability, busy_timeout: float, seen: bool) -> None:
        self.path = path
        self.durability: Durability = durability
        self.busy_timeout = busy_timeout
        self.seen = seen
        self._links: ThreadLinks[Connection] = ThreadLinks()
        # Threads of one process take turns here: SQLite's own waiting is a sleep, and wakes late.
        self._turn = threading.Lock()

    def close(self) -> None:
        """Close the connections of all threads, and forget what was seen."""
        self._links.close()
        self.seen = False

    def glance(self, key: str) -> tuple[Any] | None:
        """Return the row that holds a key's value, from what is open; None where a look at the path has to decide."""
        link = self._links.get()
        with link.lock:
            connection = link.connection
            if connection is not None and (monotonic() < link.trusted_until or self._is_same_file(link)):
                try:
                    row: tuple[Any] | None = connection.execute(sql.GET, (key,)).fetchone()
                except (sqlite3.Error, UnicodeEncodeError):
                    pass  # the slow way says what it is
                else:
                    return row
        return None

    def call(self, work: Callable[[Connection], T], *, write: bool = False, create: bool = False) -> T | None:
        """Run ``work`` on this thread's connection; None where there is no table, and none is to be made.

        While SQLite is busy it tries again, for as long as ``busy_timeout``; its other errors become ours at once.
        """
        patience = at_most(self.busy_timeout)
        deadline = monotonic() + patience
        link = self._links.get()
        with link.lock:
            if write:
                self._take_turn()
            try:
                while True:
                    try:
                        connection = self._connection(link, create)
                        if connection is None:
                            return None
                        if patience < self.busy_timeout:
                            return _within(patience, connection, work, self.busy_timeout)
                        return work(connection)
                    except (sqlite3.Error, OverflowError) as error:
                        if not passes(error) or monotonic() >= deadline:
                            raise translated(error, self.path) from error
                    sleep(random.uniform(0.001, 0.010))  # noqa: S311  # so that equals part; no secret
            finally:
                if write:
                    self._turn.release()

    def _is_same_file(self, link: Link[Connection]) -> bool:
        """Return whether the link's connection leads to the file at the path, and trust it then."""
        if self._there() != link.identity:
            return False
        link.trusted_until = monotonic() + _TRUSTED_SECONDS
        return True

    def _take_turn(self) -> None:
        if not self._turn.acquire(timeout=at_most(self.busy_timeout)):
            raise StoreUnavailableError(
                f"the SQLite database {self.path!r} was held by another thread's write for longer than "
                f"{self.busy_timeout} s: raise busy_timeout, or write smaller batches"
            )

    def _connection(self, link: Link[Connection], create: bool) -> Connection | None:  # noqa: FBT001  # inner loop
        """Return the link's connection to the file that is at the path now; None where no table is, or shall be."""
        seen, there = self.seen, self._there()  # in this order: another thread may make the table meanwhile
        connection = link.connection
        if connection is not None and there == link.identity and (link.writable or not create):
            return connection
        if connection is None or there is None or not self._is_same(link, there):
            link.close()
            if there is None and seen:
                raise StoreUnavailableError(
                    f"the SQLite database {self.path!r} is gone, though it was there before: bring it back, or "
                    f"close() the store to begin anew"
                )
            if there is None and not create:
                return None
            self._connect(link, create=create, seen=seen)
        if create and link.connection is not None and not link.writable:
            _prepare(link.connection, self.durability)
            link.writable = self.seen = True
            link.identity = self._there() or ()
        return link.connection

    def _there(self) -> tuple[int, ...] | None:
        """Return what tells the file at the path from any other one; None where there is none."""
        try:
            found = os.stat(self.path)  # noqa: PTH116  # at each call: pathlib takes three times as long
        except FileNotFoundError:
            return None
        except OSError as error:
            kind, what, remedy = unopenable(self.path)
            raise kind(f"the SQLite database {self.path!r} {what} ({error}): {remedy}") from error
        return found.st_dev, found.st_ino

    def _version(self) -> tuple[int, ...]:
        """Return what tells the file from what it was before a change; empty where a log is, or no file."""
        if os.path.exists(f"{self.path}-wal"):  # noqa: PTH110  # as above
            return ()
        try:
            found = os.stat(self.path)  # noqa: PTH116  # as above
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _is_same(self, link: Link[Connection], there: tuple[int, ...]) -> bool:
        return bool(link.identity) and link.identity in {there, self._version()}

    def _connect(self, link: Link[Connection], *, create: bool, seen: bool) -> None:
        identity = self._there() or ()
        try:
            connection = self._open("mode=rwc" if create else "mode=rw", create=create)
        except sqlite3.OperationalError:
            # A file in WAL mode needs a log, which a folder that we may not write to cannot get. If there is none,
            # then nobody writes, and the file alone is the database: it is read as it is, until it changes.
            version = self._version()
            if create or not version or os.access(Path(self.path).parent, os.W_OK):
                raise
            connection, identity = self._open("mode=ro&immutable=1", create=False), version
        if connection is not None:
            link.keep(connection)
            link.identity = identity
            self.seen |= not create  # where the table may yet have to be made, it was not looked for
        elif seen:
            raise StoreUnavailableError(f"the table 'zarr' of the SQLite database {self.path!r} is gone: restore it")

    def _open(self, mode: str, *, create: bool) -> Connection | None:
        connection = sqlite3.connect(
            f"{Path(self.path).as_uri()}?{mode}",
            uri=True,
            timeout=self.busy_timeout,
            isolation_level=None,
            check_same_thread=False,  # `close` and fork close the connections of all threads
        )
        try:
            connection.execute(f"PRAGMA synchronous = {self.durability}")
            if self._has_table(connection) or create:
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def _has_table(self, connection: Connection) -> bool:
        columns = {name: key for _, name, _, _, _, key in connection.execute("PRAGMA table_info(zarr)")}
        (encoding,) = connection.execute("PRAGMA encoding").fetchone()
        if columns and (columns.get("k") != 1 or "v" not in columns or encoding != "UTF-8"):
            raise StoreCorruptError(
                f"the table 'zarr' of the SQLite database {self.path!r} is not zarr's (k TEXT PRIMARY KEY, v BLOB, in "
                f"UTF-8): write to another file"
            )
        return bool(columns)


def _within(seconds: float, connection: Connection, work: Callable[[Connection], T], usual: float) -> T:
    """Run ``work`` with less patience than usual, since whoever calls has less."""
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")
    try:
        return work(connection)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * usual)}")


def _prepare(connection: Connection, durability: Durability) -> None:
    """Make the table and the log, where they are not there yet."""
    connection.execute(f"PRAGMA page_size = {sql.PAGE_SIZE}")  # heeded by a new file only
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal" and durability == "normal":
        # Without a log (there are file systems that have none), this is what keeps the file whole in a power loss.
        connection.execute("PRAGMA synchronous = FULL")
    if durability == "full":
        connection.execute("PRAGMA fullfsync = 1")  # macOS: to the platter, not to the drive's cache
    connection.execute(sql.CREATE)
