"""The connections to one SQLite file: when they are made, what they are good for, and how long a call insists."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zarrstream.concurrency.deadline import at_most
from zarrstream.concurrency.per_thread import Link, ThreadLinks
from zarrstream.errors import StoreCorruptError, StoreUnavailableError
from zarrstream.mappings.sqlite import statements as sql
from zarrstream.mappings.sqlite.errors import passes, translated
from zarrstream.mappings.sqlite.identity import Identity, identity_of, log_of, remove_stale_log, version_of, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
Connection = sqlite3.Connection
Durability = Literal["full", "normal", "off"]
#: Length of the identity of a file; one that is read without its locks has its time and size besides.
_FILE_ONLY = 2
#: Bytes from which on a log is begun anew, and the writes after which its size is looked at.
_LOG_BYTES = 64 << 20
_TRIMMED_AFTER = 64
#: For how long a value may be read from what is open before the path is looked at again.
_TRUSTED_SECONDS = 0.01


@contextmanager
def transaction(connection: Connection, kind: str) -> Iterator[None]:
    """Hold one transaction, ``"IMMEDIATE"`` to write or ``"DEFERRED"`` to read; an error rolls it back."""
    begin = f"BEGIN {kind}"
    try:
        connection.execute(begin)  # in here: a signal handler may raise as it returns
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
        # Threads of one process take turns here: SQLite's own waiting is a sleep, and wakes late. A lock that knows its
        # owner: after an interrupt nobody else can say whether it was taken.
        self._turn = threading.RLock()
        self._writes = count(1)
        watch(path, self._links)

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
        link = self._links.get()
        with link.lock:
            try:
                link.calls += 1
                if write:
                    self._take_turn()
                result = self._insist(link, work, create)
                if write and not next(self._writes) % _TRIMMED_AFTER:
                    self._trim(link)
                return result
            finally:
                link.calls -= 1
                if write:
                    try:  # noqa: SIM105  # an interrupt could come between the calls that `suppress` makes
                        self._turn.release()
                    except RuntimeError:  # it was not taken: in vain, or because of an interrupt
                        pass

    def _insist(self, link: Link[Connection], work: Callable[[Connection], T], create: bool) -> T | None:  # noqa: FBT001  # inner loop
        """Run ``work``, again and again while SQLite is busy."""
        patience = at_most(self.busy_timeout)
        deadline = monotonic() + patience
        while True:
            try:
                connection = self._connection(link, create)
                if connection is None:
                    return None
                if connection.in_transaction and link.calls == 1:
                    connection.execute("ROLLBACK")  # an interrupted call left it open
                if patience < self.busy_timeout:
                    result = _within(patience, connection, work, self.busy_timeout)
                else:
                    result = work(connection)
            except (sqlite3.Error, OverflowError) as error:
                if _is_read_only(error) and link.calls == 1:
                    link.close()  # SQLite opened it so; perhaps it may be written by now
                if not passes(error) or monotonic() >= deadline:
                    raise translated(error, self.path) from error
            else:
                if len(link.identity) <= _FILE_ONLY or version_of(self.path) == link.identity:
                    return result
                link.close()  # somebody began to write to the file that was read without its locks
            sleep(random.uniform(0.001, 0.010))  # noqa: S311  # so that equals part; no secret

    def _trim(self, link: Link[Connection]) -> None:
        """Begin the log anew where it has grown large beside readers that never pause all at once."""
        connection = link.connection
        try:
            if connection is not None and os.path.getsize(f"{self.path}-wal") > _LOG_BYTES:  # noqa: PTH202  # as above
                connection.execute("PRAGMA busy_timeout = 50")  # it is housekeeping: another time is as good
                try:
                    connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {round(1000 * self.busy_timeout)}")
        except (OSError, sqlite3.Error):
            return  # no log, or one that is in use: what was written is written all the same

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
            if there is not None:
                remove_stale_log(self.path, there)  # before the connection that proves whose it is is closed
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
            link.identity, link.log = self._there() or (), log_of(self.path)
        return link.connection

    def _there(self) -> Identity | None:
        return identity_of(self.path)

    def _is_same(self, link: Link[Connection], there: tuple[int, ...]) -> bool:
        return bool(link.identity) and link.identity in {there, version_of(self.path)}

    def _connect(self, link: Link[Connection], *, create: bool, seen: bool) -> None:
        identity = self._there() or ()
        try:
            connection = self._open("mode=rwc" if create else "mode=rw", create=create)
        except sqlite3.OperationalError as error:
            # A file in WAL mode needs a log, which a folder that we may not write to cannot get. If there is none, nor
            # the journal of a writer, then nobody writes, and the file alone is the database: it is read as it is,
            # until it changes. Any other error, that it is locked above all, says that somebody does write.
            version = version_of(self.path)
            needs_log = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
            if create or not version or not needs_log or os.access(Path(self.path).parent, os.W_OK):
                raise
            connection, identity = self._open("mode=ro&immutable=1", create=False), version
        if connection is not None:
            link.keep(connection)
            link.identity, link.log = identity, log_of(self.path)
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
        orders = {order for *_, order, _ in connection.execute("PRAGMA index_xinfo(sqlite_autoindex_zarr_1)")}
        if columns and (columns.get("k") != 1 or "v" not in columns or encoding != "UTF-8" or orders - {"BINARY"}):
            raise StoreCorruptError(
                f"the table 'zarr' of the SQLite database {self.path!r} is not zarr's (k TEXT PRIMARY KEY, v BLOB, in "
                f"UTF-8, with the collation BINARY): write to another file"
            )
        return bool(columns)


def _within(seconds: float, connection: Connection, work: Callable[[Connection], T], usual: float) -> T:
    """Run ``work`` with less patience than usual, since whoever calls has less."""
    back = f"PRAGMA busy_timeout = {round(1000 * usual)}"
    try:
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")
        return work(connection)
    finally:
        connection.execute(back)


def _is_read_only(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY


def _prepare(connection: Connection, durability: Durability) -> None:
    """Make the table and the log, where they are not there yet."""
    connection.execute(f"PRAGMA page_size = {sql.PAGE_SIZE}")  # heeded by a new file only
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")  # of the log that is left when all is in the file
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal" and durability == "normal":
        # Without a log (there are file systems that have none), this is what keeps the file whole in a power loss.
        connection.execute("PRAGMA synchronous = FULL")
    if durability == "full":
        connection.execute("PRAGMA fullfsync = 1")  # macOS: to the platter, not to the drive's cache
    connection.execute(sql.CREATE)
