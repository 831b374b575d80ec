"""Values as GridFS files: file documents and pieces, and how they are read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from zarrstream.concurrency.one_version import saw_version
from zarrstream.errors import StoreCorruptError, StoreUnavailableError
from zarrstream.mappings.gridfs.session import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zarrstream.mappings.gridfs.session import Collection, Connection, Database, Document

MIB = 1 << 20
WHOLE = 15 * MIB  # a value of less is one piece: a document of MongoDB holds 16 MiB, names included
PIECE = MIB  # of larger values, so that a range is not dear
NAMES_AT_ONCE = 500
KEYS_AT_ONCE = 1024
_TRIES = 1000
#: Where the version stands: in ``metadata``, which the GridFS specification leaves to applications.
VERSION = "metadata.zarrstream"
#: Until when an upload is believed to be alive, in file documents that have no name yet, or no longer.
UNTIL = "metadata.zarrstream_until"
NEWEST = [(VERSION, -1), ("_id", -1)]  # what has no version sorts behind all that have one
_FIELDS = {"filename": 1, "length": 1, "chunkSize": 1, VERSION: 1}
NAME_INDEX = [("filename", 1), ("uploadDate", 1)]  # the specification's
PIECE_INDEX = [("files_id", 1), ("n", 1)]  # the same
VERSION_INDEX = [("filename", 1), (VERSION, 1)]


@dataclass
class File:
    """One value on its way into a bucket.

    Attributes
    ----------
    name : str
        The file's name.
    value : bytes or memoryview
        The content, one-dimensional.
    id : ObjectId
        This version's own: who finds it in the bucket knows that the write took place.
    named : float or None
        When its name was asked for, as `time.monotonic` counts; None before.
    """

    name: str
    value: bytes | memoryview
    id: Any = field(default_factory=new_id)
    named: float | None = None

    @property
    def piece_size(self) -> int:
        """How many bytes a piece has."""
        return WHOLE if len(self.value) < WHOLE else PIECE

    def document(self) -> Document:
        """Return the file document, without name and version."""
        return {
            "_id": self.id,
            "length": len(self.value),
            "chunkSize": self.piece_size,
            # GridFS wants one; which of two versions is newer is nothing that a client's clock decides here.
            "uploadDate": datetime.now(UTC),
        }

    def pieces(self) -> Iterator[Document]:
        """Yield the pieces' documents."""
        size = self.piece_size
        for number, start in enumerate(range(0, len(self.value), size)):
            yield {"_id": new_id(), "files_id": self.id, "n": number, "data": bytes(self.value[start : start + size])}


class Files:
    """The files of one bucket, read.

    Parameters
    ----------
    connection : Connection
        The way to the database.
    bucket : str
        The bucket: the collections ``{bucket}.files`` and ``{bucket}.chunks``.
    """

    def __init__(self, connection: Connection, bucket: str) -> None:
        self.connection = connection
        self.bucket = bucket
        self.collection = f"{bucket}.files"

    def files(self, database: Database) -> Collection:
        """Return the collection of file documents."""
        return database[f"{self.bucket}.files"]

    def chunks(self, database: Database) -> Collection:
        """Return the collection of pieces."""
        return database[f"{self.bucket}.chunks"]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return the bytes ``start`` to ``stop`` of the newest version; None where there is no such file."""
        return self.connection.call(lambda database: self._read(database, name, slice(start, stop)))

    def _read(self, database: Database, name: str, wanted: slice) -> bytes | None:
        before, same = None, 0
        for _ in range(_TRIES):
            file = self._newest(database, name)
            if file is None:
                return None
            start, stop, _ = wanted.indices(file["length"])
            if start >= stop:
                return b""
            content = joined(file, start, stop, self._pieces(database, file, start, stop))
            if content is not None:
                saw_version(file["_id"])
                return content
            # A writer has replaced the file between the two questions: the next answer is its.
            same = same + 1 if file["_id"] == before else 0
            before = file["_id"]
            if same > 5:  # noqa: PLR2004  # shards of one cluster may be a moment apart
                raise self.lacks_pieces(name)
            if same:
                time.sleep(0.01 * same)
        raise StoreUnavailableError(
            f"the file {name!r} in {self.connection.place} is replaced faster than it can be read: try again"
        )

    def lacks_pieces(self, name: str) -> StoreCorruptError:
        """Return the error of a file that is not whole."""
        return StoreCorruptError(f"the file {name!r} in {self.connection.place} lacks pieces: delete or rewrite it")

    def _newest(self, database: Database, name: str) -> Document | None:
        # Without an order: the server would plan and sort each time what is one document nearly always.
        found = list(self.files(database).find({"filename": name}, _FIELDS))
        try:
            return max(found, key=_order, default=None)
        except TypeError:  # others' ids, of several kinds: the server has an order for these
            return self.files(database).find_one({"filename": name}, _FIELDS, sort=NEWEST)

    def _pieces(self, database: Database, file: Document, start: int, stop: int) -> list[Document]:
        first, last = start // file["chunkSize"], (stop - 1) // file["chunkSize"]
        number: Any = first if first == last else {"$gte": first, "$lte": last}
        wanted = {"files_id": file["_id"], "n": number}
        found = self.chunks(database).find(wanted, {"_id": 0, "n": 1, "data": 1})
        return list(found if first == last else found.sort("n", 1))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those names that are there, 500 with two queries."""
        found: dict[str, bytes] = {}
        rest = iter(dict.fromkeys(names))
        while some := list(islice(rest, NAMES_AT_ONCE)):
            found.update(self.connection.call(lambda database, some=some: self._read_some(database, some)))  # type: ignore[misc]  # bound now
        return found

    def _read_some(self, database: Database, names: list[str]) -> dict[str, bytes]:
        newest: dict[str, Document] = {}
        for file in self.files(database).find({"filename": {"$in": names}}, _FIELDS).sort(NEWEST):
            newest.setdefault(file["filename"], file)
        wanted = {"files_id": {"$in": [file["_id"] for file in newest.values() if file["length"]]}}
        pieces: dict[str, list[Document]] = {}
        if wanted["files_id"]["$in"]:
            for piece in self.chunks(database).find(wanted, {"_id": 0}).sort(PIECE_INDEX):
                pieces.setdefault(repr(piece["files_id"]), []).append(piece)  # others' ids may be documents
        values = {
            name: joined(file, 0, file["length"], pieces.get(repr(file["_id"]), [])) for name, file in newest.items()
        }
        # Those that a writer has replaced meanwhile are asked for anew.
        again = {name: self._read(database, name, slice(None)) for name, value in values.items() if value is None}
        return {name: value for name, value in {**values, **again}.items() if value is not None}

    def size(self, name: str) -> int | None:
        """Return a file's length in bytes; None where there is no such file."""

        def size(database: Database) -> int | None:
            file = self._newest(database, name)
            return None if file is None else int(file["length"])

        return self.connection.call(size)

    def existing(self, names: list[str]) -> set[str]:
        """Return those names that are there."""
        wanted = {"filename": {"$in": names}}
        return self.connection.call(
            lambda database: {file["filename"] for file in self.files(database).find(wanted, {"_id": 0, "filename": 1})}
        )

    def names(self, low: str, high: str | bytes, after: str | None, limit: int) -> list[str]:
        """Return the first names from ``low`` to before ``high``, or behind ``after``, in order; once per version."""
        bounds: dict[str, str] = {"$gte": low} if after is None else {"$gt": after}
        if isinstance(high, str):
            bounds["$lt"] = high
        else:
            bounds["$gte"] = bounds.get("$gte", low)  # texts only: not what has no name

        def page(database: Database) -> list[str]:
            # All in the first batch: no cursor stays open on the server.
            found = self.files(database).find({"filename": bounds}, {"_id": 0, "filename": 1})
            return [file["filename"] for file in found.sort("filename", 1).limit(limit).batch_size(limit + 1)]

        return self.connection.call(page)


def _order(file: Document) -> tuple[int, Any]:
    """Return what the newest version has most of, as in `NEWEST`."""
    return file.get("metadata", {}).get("zarrstream", 0), file["_id"]


def joined(file: Document, start: int, stop: int, pieces: list[Document]) -> bytes | None:
    """Return the bytes ``start`` to ``stop`` of a file; None where pieces are missing."""
    size = file["chunkSize"]
    if start >= stop:
        return b""
    first, last = start // size, (stop - 1) // size
    if [piece["n"] for piece in pieces] != list(range(first, last + 1)):
        return None
    if any(len(piece["data"]) != min(size, file["length"] - piece["n"] * size) for piece in pieces):
        return None
    if first == last:
        data = pieces[0]["data"]
        begin = first * size
        whole = start == begin and stop - start == len(data)
        return bytes(data) if whole else bytes(data[start - begin : stop - begin])
    parts = [piece["data"] for piece in pieces]
    parts[-1] = parts[-1][: stop - last * size]
    parts[0] = parts[0][start - first * size :]
    return b"".join(parts)
