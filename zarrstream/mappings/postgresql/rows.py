"""The verbs of a mapping, as statements on the rows of one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from zarrstream.mappings.base import ByteMapping, checked_key, contiguous, level, names_below, pairs
from zarrstream.mappings.postgresql import statements as sql
from zarrstream.mappings.postgresql.driver import Error, copied
from zarrstream.mappings.postgresql.errors import too_large
from zarrstream.mappings.sqlite.statements import successor

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterable, Iterator, Mapping, Sequence

    from zarrstream.mappings.postgresql.driver import Connection
    from zarrstream.mappings.postgresql.session import Calls

_MOST = 1 << 30  # bytes of a value; no bytea has more
_LARGEST = _MOST - (1 << 16)  # a message of the protocol has 1 GiB at most, the key and the statement included


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
        row = self._row(key, value)

        def put(connection: Connection) -> None:
            connection.number = connection.start(self._sql.put, row).fetchone()[0]

        self._calls.change(put, create=True)

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic.

        Where the acknowledgement of the write was lost, what is there is what was written.
        """
        row = self._row(key, default)

        def insert(connection: Connection) -> bytes:
            while True:
                new = connection.start(self._sql.put_new, row).fetchone()
                if new is not None:
                    connection.number = new[0]
                    return bytes(row[2])
                found = connection.execute(self._sql.get, row[:2], binary=True).fetchone()
                if found is not None:  # else it was removed meanwhile
                    return cast("bytes", found[0])

        return cast("bytes", self._calls.change(insert, create=True))

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values in one transaction: all of them or none. See `ByteMapping.update_many`.

        From 64 on they go by COPY.
        """
        # Taken whole before the transaction begins: what computes them is not ours, and may be slow, or fork.
        rows = sorted({key: self._row(key, value)[1:] for key, value in pairs(items)}.values(), key=lambda row: row[0])

        def insert(connection: Connection) -> None:
            connection.start()
            with connection.cursor() as cursor:
                if len(rows) >= sql.ROWS_FOR_COPY and self._copies(connection, rows):
                    cursor.execute(self._sql.put_fresh, (self._array_id,))
                    cursor.execute(sql.EMPTY_FRESH)  # this transaction may not end yet
                else:
                    cursor.executemany(self._sql.put, [(self._array_id, *row) for row in rows])
            connection.number = connection.execute(sql.NUMBER).fetchone()[0]  # type: ignore[index]  # it has a row

        if rows:
            self._calls.change(insert, create=True)

    def _copies(self, connection: Connection, rows: list[Any]) -> bool:
        """Copy rows into a temporary table; return False where the user, or the server, has none to give."""
        try:
            with connection.transaction(), connection.cursor() as cursor:
                if cursor.execute(sql.HAS_FRESH).fetchone() != (True,):
                    cursor.execute(sql.FRESH)
                copied(cursor, sql.COPY, sql.COPY_TYPES, rows)
        except Error:
            if connection.closed or not connection.has_begun:
                raise
            return False
        return True

    def __delitem__(self, key: str) -> None:
        if not self._remove(key):
            raise KeyError(key)

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        self._remove(key)

    def _remove(self, key: str) -> bool:
        row = self._array_id, checked_key(key)

        def remove(connection: Connection) -> bool | None:
            found = connection.start(self._sql.delete, row).fetchone()
            if found is None:
                return None
            connection.number = found[0]
            return True

        return bool(self._calls.change(remove))

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given. Atomic."""
        row = self._array_id, checked_key(key)

        def take(connection: Connection) -> bytes | None:
            found = connection.start(self._sql.take, row, binary=True).fetchone()
            if found is None:
                return None
            connection.number = found[0]
            return cast("bytes", found[1])

        value = self._calls.change(take)
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

        def clear(connection: Connection) -> None:
            connection.start(statement, row)
            connection.number = connection.execute(sql.NUMBER).fetchone()[0]  # type: ignore[index]  # as above

        self._calls.change(clear)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _row(self, key: str, value: Buffer) -> tuple[str, str, bytes | memoryview]:
        content = contiguous(value)
        nbytes = content.nbytes if isinstance(content, memoryview) else len(content)
        if nbytes > _LARGEST:
            raise too_large(f"a value of {nbytes} bytes", str(self))
        return self._array_id, checked_key(key), content

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
