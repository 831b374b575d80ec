"""The verbs of a mapping, as statements on the rows of one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from zarrstream.mappings import postgresql_sql as sql
from zarrstream.mappings.base import ByteMapping, checked_key, contiguous, level, names_below, pairs
from zarrstream.mappings.postgresql_driver import copied
from zarrstream.mappings.sqlite_sql import successor

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterable, Iterator, Mapping, Sequence

    from zarrstream.mappings.postgresql_driver import Connection
    from zarrstream.mappings.postgresql_session import Calls

_MOST = 1 << 30  # bytes of a value; no bytea has more


class PostgreSQLRows(ByteMapping):
    """The rows of one array id, reached by any connection or by that of one transaction.

    Parameters
    ----------
    calls : Calls
        Where statements go.
    statements : Statements
        On which table.
    array_id : str
        Whose rows.
    """

    def __init__(self, calls: Calls, statements: sql.Statements, array_id: str) -> None:
        self._calls = calls
        self._sql = statements
        self._array_id = array_id

    # -- values -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        return cast("bytes", self._cell(self._sql.get, key))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of a value, without reading the rest. See `ByteMapping.read`."""
        first = max(min(start, _MOST), -_MOST)
        end = _MOST if stop is None else max(min(stop, _MOST), -_MOST)
        if first >= 0 and end >= 0:
            return cast("bytes", self._cell(self._sql.get_range, key, first + 1, max(end - first, 0)))
        row = {"start": first, "stop": end, "id": self._array_id, "key": checked_key(key)}
        rows = self._rows(self._sql.get_slice, row)
        if not rows:
            raise KeyError(key)
        return cast("bytes", rows[0][0])

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there, from one version. See `ByteMapping.read_many`."""
        wanted = [checked_key(key) for key in keys]
        return dict(self._rows(self._sql.get_many, (self._array_id, wanted))) if wanted else {}

    def size(self, key: str) -> int:
        """Return the length of a value in bytes, without reading it. See `ByteMapping.size`."""
        return cast("int", self._cell(self._sql.size, key))

    def __setitem__(self, key: str, value: Buffer) -> None:
        row = self._array_id, checked_key(key), contiguous(value)
        self._calls.call(lambda connection: connection.execute(self._sql.put, row), create=True)

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic.

        Where the acknowledgement of the write was lost, what is there is what was written.
        """
        row = self._array_id, checked_key(key), contiguous(default)

        def insert(connection: Connection) -> bytes:
            while True:
                if connection.execute(self._sql.put_new, row).rowcount:
                    return bytes(row[2])
                found = connection.execute(self._sql.get, row[:2], binary=True).fetchone()
                if found is not None:  # else it was removed meanwhile
                    return cast("bytes", found[0])

        return cast("bytes", self._calls.call(insert, create=True))

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values in one transaction: all of them or none. See `ByteMapping.update_many`.

        From 64 on they go by COPY.
        """
        # Taken whole before the transaction begins: what computes them is not ours, and may be slow, or fork.
        rows = sorted(
            {checked_key(key): contiguous(value) for key, value in pairs(items)}.items(), key=lambda row: row[0]
        )

        def insert(connection: Connection) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                if len(rows) < sql.ROWS_FOR_COPY:
                    cursor.executemany(self._sql.put, [(self._array_id, *row) for row in rows])
                    return
                if cursor.execute(sql.HAS_FRESH).fetchone() != (True,):
                    cursor.execute(sql.FRESH)
                copied(cursor, sql.COPY, sql.COPY_TYPES, rows)
                cursor.execute(self._sql.put_fresh, (self._array_id,))
                cursor.execute(sql.EMPTY_FRESH)  # this transaction may not end yet

        if rows:
            self._calls.call(insert, create=True)

    def __delitem__(self, key: str) -> None:
        row, tries = (self._array_id, checked_key(key)), 0

        def remove(connection: Connection) -> bool:
            nonlocal tries
            tries += 1
            # The second time it may be gone by the first.
            return connection.execute(self._sql.delete, row).rowcount > 0 or tries > 1

        if not self._calls.call(remove):
            raise KeyError(key)

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        self._calls.call(lambda connection: connection.execute(self._sql.delete, (self._array_id, checked_key(key))))

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given. Atomic."""
        row, value = (self._array_id, checked_key(key)), None

        def take(connection: Connection) -> None:
            nonlocal value
            # Kept before the commit, whose acknowledgement may be lost: the second time it may be gone by the first.
            with connection.transaction():
                found = connection.execute(self._sql.take, row, binary=True).fetchone()
                value = value if found is None else found[0]

        self._calls.call(take)
        if value is not None:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        return bool(self._rows(self._sql.has, (self._array_id, checked_key(key))))

    def __iter__(self) -> Iterator[str]:
        return self.keys_under("")

    def __len__(self) -> int:
        rows = self._rows(self._sql.count, (self._array_id,))
        return int(rows[0][0]) if rows else 0

    def __bool__(self) -> bool:
        return bool(self._rows(self._sql.any, (self._array_id,)))

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in the order of their code points. Reads pages of 1024 keys."""
        low, high = checked_key(prefix), successor(prefix)
        while True:
            if isinstance(high, str):
                rows = self._rows(self._sql.keys_range, (self._array_id, low, high, sql.KEYS_AT_ONCE))
            else:
                rows = self._rows(self._sql.keys_from, (self._array_id, low, sql.KEYS_AT_ONCE))
            for (key,) in rows:
                yield key
            if len(rows) < sql.KEYS_AT_ONCE:
                return
            low = rows[-1][0] + "\1"  # nothing lies between, as no key holds a NUL

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``, without visiting what is beneath them."""
        low = level(checked_key(path))
        bounds = {"id": self._array_id, "low": low, "skip": len(low) + 1}
        # The key "a" and the level "a/" are one name, but need not be neighbours: "a!" lies between them.
        return names_below(path, (key for (key,) in self._rows(self._sql.children, bounds)))

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key) in one transaction."""
        low = level(checked_key(path))
        high = successor(low)
        bounded = isinstance(high, str)
        statement = self._sql.delete_range if bounded else self._sql.delete_from
        row = (self._array_id, low, high) if bounded else (self._array_id, low)
        self._calls.call(lambda connection: connection.execute(statement, row))

    # -- calls --------------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, parameters: Sequence[object] | Mapping[str, object]) -> list[Any]:
        return (
            self._calls.call(lambda connection: connection.execute(statement, parameters, binary=True).fetchall()) or []
        )

    def _cell(self, statement: str, key: str, *before: int) -> object:
        row = (*before, self._array_id, checked_key(key))
        found = self._calls.call(lambda connection: connection.execute(statement, row, binary=True).fetchone())
        if found is None:
            raise KeyError(key)
        return found[0]
