"""One SQLite file: the table of zarr v2's ``SQLiteStore``, written by many threads and processes at once."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from zarrstream.errors import StoreCorruptError, StoreOptionError
from zarrstream.mappings.base import ByteMapping, checked_key, contiguous, level, names_below, pairs
from zarrstream.mappings.sqlite import statements as sql
from zarrstream.mappings.sqlite.session import Connection, Durability, SQLiteFile, transaction

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterable, Iterator, Mapping, Sequence


def _key(key: object) -> str:
    return key if type(key) is str and key.isascii() and "\0" not in key else checked_key(key)


class SQLiteMapping(ByteMapping):
    """Bytes under string keys in one SQLite file, which zarr v2's ``SQLiteStore`` can read and write as well.

    Parameters
    ----------
    path : str or os.PathLike
        The file. The first write makes it; its folder must exist. Opening and reading make nothing: a file that is
        not there reads as empty.
    durability : {"normal", "full", "off"}, optional
        What an acknowledged write survives:

        * ``"normal"``: the kill of the process. After a power loss or a crash of the system the file is whole, but
          the writes of the last moments may be missing.
        * ``"full"``: power loss as well; every write waits for the disk.
        * ``"off"``: the kill of the process; a power loss may leave the file unreadable.
    busy_timeout : float, optional
        How long, in seconds, a call waits while others hold the database, before it fails.

    Raises
    ------
    StoreOptionError
        A path that is no file name, or an unknown durability or busy_timeout.

    Notes
    -----
    **Threads**: any number; each has its own connection, which is closed when the thread ends.

    **Processes**: any number on one machine read and write at once. The file is in SQLite's WAL mode (the first write
    converts a file in another mode), so readers block nobody and writers take turns. Not for a network file system
    that several machines write to: WAL needs memory that all share. No connection is carried through a fork.

    **Atomicity**: each call is one transaction, `update_many`, `setdefault` and `pop` included; a range is read from
    one version of the value. Listings are read in pages: keys written meanwhile may or may not be seen.

    **A lost file**: once the table has been seen, a file that vanishes is `StoreUnavailableError`, here and in every
    pickled copy; never "empty". `close` forgets what was seen. A file that another one replaces is opened anew. Every
    write, listing and absent key is decided by a look at the path; a value may be read from the file that was there up
    to 10 ms ago.

    **A read-only folder**: a file in WAL mode is read as it is there, as long as no log lies beside it.

    **Pickling**: to path and options; a copy reconnects. **Size**: values under 1 GB; deleted values leave room that
    is used again, and ``VACUUM`` gives it back.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "normal", busy_timeout: float = 60.0
    ) -> None:
        if durability not in get_args(Durability):
            raise StoreOptionError(f"durability is 'full', 'normal' or 'off', not {durability!r}")
        if not _is_seconds(busy_timeout):
            raise StoreOptionError(f"busy_timeout is a number of seconds, 0 or more, not {busy_timeout!r}")
        self._file = SQLiteFile(_absolute(path), durability=durability, busy_timeout=busy_timeout, seen=False)

    @property
    def path(self) -> Path:
        """The absolute path of the file, links resolved."""
        return Path(self._file.path)

    @property
    def place(self) -> str:
        """``sqlite:///`` and the absolute path."""
        return f"sqlite:///{self.path.as_posix()}"

    @property
    def lock_path(self) -> str:
        """A hidden file beside the database."""
        return str(self.path.with_name(f".{self.path.name}.zarrstream-cache"))

    def __repr__(self) -> str:
        durability = "" if self._file.durability == "normal" else f", durability={self._file.durability!r}"
        return f"{type(self).__name__}({self._file.path!r}{durability})"

    def __reduce__(self) -> tuple[Any, ...]:
        file = self._file
        make = partial(type(self), durability=file.durability, busy_timeout=file.busy_timeout)
        return make, (file.path,), file.seen

    def __setstate__(self, seen: bool) -> None:  # noqa: FBT001  # pickle's own way to call it
        # A worker to which the file's disk is not mounted must say so, and not read fill values.
        self._file.seen = seen

    # -- values -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        row = self._file.glance(key) if type(key) is str else None
        if row is None:
            parameters = (_key(key),)
            row = self._file.call(lambda connection: connection.execute(sql.GET, parameters).fetchone())
        if row is None:
            raise KeyError(key)
        value = row[0]
        return value if type(value) is bytes else self._value(key, value)

    def __setitem__(self, key: str, value: Buffer) -> None:
        row = _key(key), contiguous(value)
        self._file.call(lambda connection: connection.execute(sql.PUT, row), write=True, create=True)

    def __delitem__(self, key: str) -> None:
        if not self._delete(sql.DELETE, (_key(key),)):
            raise KeyError(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of a value, without loading the rest. See `ByteMapping.read`."""
        return self.read_ranges(key, [(start, stop)])[0]

    def read_ranges(self, key: str, spans: Sequence[tuple[int, int | None]]) -> list[bytes]:
        """Return parts of a value, of one version: SQLite looks for its pages once. See `ByteMapping.read_ranges`."""
        key = _key(key)
        values = self._file.call(lambda connection: _read_ranges(connection, key, [slice(*span) for span in spans]))
        if values is None:
            raise KeyError(key)
        if isinstance(values, str):
            raise self._no_blob(key, values)
        return values

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there, 500 with one statement. See `ByteMapping.read_many`."""
        found: dict[str, bytes] = {}
        wanted = [_key(key) for key in keys]
        for first in range(0, len(wanted), sql.VALUES_AT_ONCE):
            some = wanted[first : first + sql.VALUES_AT_ONCE]
            found.update((key, self._value(key, value)) for key, value in self._rows(sql.get_many(len(some)), some))
        return found

    def size(self, key: str) -> int:
        """Return the length of a value in bytes, without loading it. See `ByteMapping.size`."""
        key = _key(key)
        row = self._file.call(lambda connection: connection.execute(sql.FIND, (key,)).fetchone())
        if row is None:
            raise KeyError(key)
        self._check_type(key, row[2])
        return row[1] or 0

    def size_many(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the lengths of the values of those keys that are there, of 500 with one statement."""
        found: dict[str, int] = {}
        wanted = [_key(key) for key in keys]
        for first in range(0, len(wanted), sql.VALUES_AT_ONCE):
            some = wanted[first : first + sql.VALUES_AT_ONCE]
            found.update((key, length or 0) for key, length in self._rows(sql.size_many(len(some)), some))
        return found

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        self._delete(sql.DELETE, (_key(key),))

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic."""
        row = _key(key), contiguous(default)

        def insert(connection: Connection) -> bytes:
            with transaction(connection, "IMMEDIATE"):
                connection.execute(sql.PUT_NEW, row)
                return self._value(key, *connection.execute(sql.GET, row[:1]).fetchone())

        return cast("bytes", self._file.call(insert, write=True, create=True))

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given. Atomic."""
        parameters = (_key(key),)

        def take(connection: Connection) -> bytes | None:
            with transaction(connection, "IMMEDIATE"):
                row = connection.execute(sql.GET, parameters).fetchone()
                connection.execute(sql.DELETE, parameters)
                return None if row is None else self._value(key, row[0])

        value = self._file.call(take, write=True)
        if value is not None:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values in one transaction: all of them or none. See `ByteMapping.update_many`."""
        # Taken whole before the transaction begins: what computes them is not ours, and may be slow, or fork.
        rows = [(_key(key), contiguous(value)) for key, value in pairs(items)]

        def insert(connection: Connection) -> None:
            with transaction(connection, "IMMEDIATE"):
                connection.executemany(sql.PUT, rows)

        if rows:
            self._file.call(insert, write=True, create=True)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        row = (_key(key),)
        return bool(self._rows(sql.HAS, row))

    def __iter__(self) -> Iterator[str]:
        return self.keys_under("")

    def __len__(self) -> int:
        rows = self._rows(sql.COUNT, ())
        return int(rows[0][0]) if rows else 0

    def __bool__(self) -> bool:
        return bool(self._rows(sql.ANY, ()))

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in the order of their code points. Reads pages of 1024 keys."""
        high = sql.successor(_key(prefix))
        rows = self._rows(sql.KEYS, (prefix, high, sql.KEYS_AT_ONCE))
        while rows:
            for (key,) in rows:
                yield key
            if len(rows) < sql.KEYS_AT_ONCE:
                return
            rows = self._rows(sql.KEYS_AFTER, (rows[-1][0], high, sql.KEYS_AT_ONCE))

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``, without visiting what is beneath them."""
        prefix = level(_key(path))
        bounds = {"low": prefix, "high": sql.successor(prefix), "skip": len(prefix) + 1}
        # The key "a" and the level "a/" are one name, but need not be neighbours: "a!" lies between them.
        return names_below(path, (key for (key,) in self._rows(sql.CHILDREN, bounds)))

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key) in one transaction."""
        prefix = level(_key(path))
        self._delete(sql.DELETE_RANGE, (prefix, sql.successor(prefix)))

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its present call returns."""
        self._file.close()

    # -- calls --------------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, parameters: Sequence[object] | Mapping[str, object]) -> list[Any]:
        return self._file.call(lambda connection: connection.execute(statement, parameters).fetchall()) or []

    def _delete(self, statement: str, parameters: tuple[object, ...]) -> int:
        return self._file.call(lambda connection: connection.execute(statement, parameters).rowcount, write=True) or 0

    def _check_type(self, key: str, kind: str) -> None:
        if kind not in _BLOBS:
            raise self._no_blob(key, kind)

    def _no_blob(self, key: str, kind: str) -> StoreCorruptError:
        return StoreCorruptError(f"{key!r} in {self._file.path!r} is a {kind}, not a BLOB: delete or rewrite it")

    def _value(self, key: str, value: object) -> bytes:
        if type(value) is bytes:
            return value
        if value is None:  # as zarr v2 stored some empty values
            return b""
        raise self._no_blob(key, type(value).__name__)


#: SQLite's types of values that are bytes; zarr 2 stored some empty values as NULL.
_BLOBS = frozenset({"blob", "null"})


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < threading.TIMEOUT_MAX


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(path)
    if name in {"", ":memory:"} or "\0" in name:
        raise StoreOptionError(
            f"a SQLite store is a file, and {name!r} names none; in memory, use a dict or memory://NAME"
        )
    return os.path.realpath(name)


def _read_ranges(connection: Connection, key: str, wanted: list[slice]) -> list[bytes] | str | None:
    # One read transaction around all: a row id that was found before it may be another key's by the time of the read.
    with transaction(connection, "DEFERRED"):
        row = connection.execute(sql.FIND, (key,)).fetchone()
        if row is None:
            return None
        if row[2] not in _BLOBS:
            return str(row[2])  # what it is instead
        spans = [part.indices(row[1] or 0)[:2] for part in wanted]
        if all(start >= stop for start, stop in spans):
            return [b""] * len(spans)
        found = []
        with connection.blobopen("zarr", "v", row[0], readonly=True) as blob:
            for start, stop in spans:
                blob.seek(start)
                found.append(blob.read(max(0, stop - start)))
        return found
