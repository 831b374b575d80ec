"""The layout of zarr 2's ``MongoDBStore``: one document of MongoDB per key, ``{key, value}``."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from zarrstream.errors import PartialWriteError, StoreCorruptError, StoreError
from zarrstream.mappings.gridfs.errors import duplicate, is_duplicate
from zarrstream.mappings.gridfs.session import DriverError, replacement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarrstream.mappings.gridfs.session import Collection, Connection, Database

_LARGEST = (16 << 20) - 16_384  # a document holds 16 MiB, the key and the names of the fields included
_KEYS_AT_ONCE = 500


class Documents:
    """The documents of one collection.

    Parameters
    ----------
    connection : Connection
        The way to the database.
    collection : str
        The collection.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self.connection = connection
        self.collection = collection

    def _documents(self, database: Database) -> Collection:
        return database[self.collection]

    def prepare(self) -> None:
        """Make an index over the keys, unique: zarr 2 had none, and read the whole collection for each key."""

        def prepare(database: Database) -> None:
            try:
                self._documents(database).create_index("key", unique=True)
            except DriverError as error:
                if not is_duplicate(error):
                    raise
                raise StoreCorruptError(
                    f"{self.connection.place} holds the key {duplicate(error)} in more than one document, as writers "
                    f"beside each other left it before there was an index: delete all but one of them"
                ) from error

        self.connection.call(prepare)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return the bytes ``start`` to ``stop`` of a value; None where there is none. The whole value is fetched."""
        found = self.connection.call(lambda database: self._documents(database).find_one({"key": name}, {"value": 1}))
        return None if found is None else self._value(name, found)[start:stop]

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those names that are there, 500 with one query."""
        found: dict[str, bytes] = {}
        rest = iter(dict.fromkeys(names))
        while some := list(islice(rest, _KEYS_AT_ONCE)):
            which = {"key": {"$in": some}}
            rows = self.connection.call(lambda database, which=which: list(self._documents(database).find(which)))  # type: ignore[misc]  # bound now
            found.update((row["key"], self._value(row["key"], row)) for row in rows)
        return found

    def _value(self, name: str, found: dict[str, Any]) -> bytes:
        value = found.get("value")
        if isinstance(value, bytes):
            return bytes(value)
        raise StoreCorruptError(
            f"{name!r} in {self.connection.place} is a {type(value).__name__}, not binary data: delete or rewrite it"
        )

    def size(self, name: str) -> int | None:
        """Return a value's length in bytes; None where there is none."""
        steps: list[dict[str, Any]] = [
            {"$match": {"key": name}},
            {"$limit": 1},
            {"$project": {"_id": 0, "size": {"$binarySize": "$value"}}},
        ]
        found = self.connection.call(lambda database: list(self._documents(database).aggregate(steps)))
        return int(found[0]["size"]) if found else None

    def existing(self, names: list[str]) -> set[str]:
        """Return those names that are there."""
        which = {"key": {"$in": names}}
        return self.connection.call(
            lambda database: {row["key"] for row in self._documents(database).find(which, {"_id": 0, "key": 1})}
        )

    def names(self, low: str, high: str | bytes, after: str | None, limit: int) -> list[str]:
        """Return the first names from ``low`` to before ``high``, or behind ``after``, in order."""
        bounds: dict[str, str] = {"$gte": low} if after is None else {"$gt": after}
        if isinstance(high, str):
            bounds["$lt"] = high

        def page(database: Database) -> list[str]:
            found = self._documents(database).find({"key": bounds}, {"_id": 0, "key": 1})
            return [row["key"] for row in found.sort("key", 1).limit(limit).batch_size(limit + 1)]

        return self.connection.call(page)

    def write(self, values: list[tuple[str, bytes | memoryview]]) -> None:
        """Write many values, 500 with one command, one after the other; a failure says which were written."""
        documents = [{"key": name, "value": self._checked(name, value)} for name, value in values]
        written: list[str] = []
        for first in range(0, len(documents), _KEYS_AT_ONCE):
            some = documents[first : first + _KEYS_AT_ONCE]
            try:
                self.connection.call(lambda database, some=some: self._replace(database, some))  # type: ignore[misc]  # bound now
            except Exception as error:
                if not written:
                    raise
                message = (
                    f"{some[0]['key']!r} was not written to {self.connection.place}, {len(written)} before it were"
                )
                raise PartialWriteError(message, written=tuple(written)) from error
            written += [str(document["key"]) for document in some]

    def _replace(self, database: Database, documents: list[dict[str, Any]]) -> None:
        orders = [replacement({"key": document["key"]}, document, upsert=True) for document in documents]
        try:
            self._documents(database).bulk_write(orders)
        except DriverError as error:
            if not is_duplicate(error):
                raise
            # Another writer has made a key at the same moment: now there is something to replace.
            self._documents(database).bulk_write(orders)

    def insert(self, name: str, value: bytes | memoryview) -> bytes | None:
        """Write a value unless the name is there; return what is there then, None where that is the value."""
        fresh = {"$setOnInsert": {"value": self._checked(name, value)}}

        def insert(database: Database) -> bool:
            try:
                return self._documents(database).update_one({"key": name}, fresh, upsert=True).upserted_id is not None
            except DriverError as error:
                if not is_duplicate(error):
                    raise
                return False

        while True:
            if self.connection.call(insert):
                return None
            found = self.read(name)
            if found is not None:  # None: somebody has removed it meanwhile
                return found

    def _checked(self, name: str, value: bytes | memoryview) -> bytes:
        if len(value) + len(name.encode()) > _LARGEST:
            raise StoreError(
                f"{name!r} has {len(value)} bytes, and a document of MongoDB holds 16 MiB: use smaller chunks, or "
                f"layout='gridfs'"
            )
        return bytes(value)

    def take(self, name: str) -> bytes | None:
        """Remove a name and return what was there; None where nothing was."""
        # Not twice by ourselves: the driver does so where the servers know a second attempt from a first one.
        found = self.connection.call(
            lambda database: self._documents(database).find_one_and_delete({"key": name}, {"value": 1}), again=False
        )
        return None if found is None else self._value(name, found)

    def remove(self, names: list[str]) -> int:
        """Remove some names; return how many there were."""
        if len(names) == 1:
            which = {"key": names[0]}
            found = self.connection.call(
                lambda database: self._documents(database).find_one_and_delete(which, {"_id": 1}), again=False
            )
            return int(found is not None)
        some = {"key": {"$in": names}}
        return int(self.connection.call(lambda database: self._documents(database).delete_many(some)).deleted_count)

    def remove_range(self, low: str, high: str | bytes) -> None:
        """Remove every name from ``low`` to before ``high``."""
        bounds = {"$gte": low, "$lt": high} if isinstance(high, str) else {"$gte": low}
        self.connection.call(lambda database: self._documents(database).delete_many({"key": bounds}))
