"""How a bucket is written: what replaces and what is replaced change places in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream.errors import PartialWriteError, StoreCorruptError
from zarrstream.mappings.gridfs.errors import duplicate, is_duplicate
from zarrstream.mappings.gridfs.files import (
    KEYS_AT_ONCE,
    MIB,
    NAME_INDEX,
    NEWEST,
    PIECE_INDEX,
    VERSION_INDEX,
    File,
    joined,
)
from zarrstream.mappings.gridfs.session import DriverError
from zarrstream.mappings.gridfs.uploads import UploadedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from zarrstream.mappings.gridfs.session import Database, Document, Session

T = TypeVar("T")

#: How many bytes one transaction takes. All of it lies in a part of the server's cache until it ends: where that has
#: the least size that there is, 256 MB, one value of 15 MiB is refused.
TRANSACTION = 8 * MIB
_FILES_AT_ONCE = 500


class WritableFiles(UploadedFiles):
    """The files of one bucket, read and written."""

    def prepare(self) -> None:
        """Make the indexes that GridFS has, and the one that gives each version to one writer only."""
        self.connection.call(self._prepare)
        self.sweep()

    def _prepare(self, database: Database) -> None:
        files, chunks = self.files(database), self.chunks(database)
        files.create_index(NAME_INDEX)
        try:
            files.create_index(
                VERSION_INDEX, unique=True, partialFilterExpression={VERSION_INDEX[1][0]: {"$exists": True}}
            )
            chunks.create_index(PIECE_INDEX, unique=True)
        except DriverError as error:
            if not is_duplicate(error):
                raise
            raise StoreCorruptError(
                f"{self.connection.place} holds {duplicate(error)} more than once, which a bucket of GridFS cannot: "
                f"delete all but one of them"
            ) from error

    def write(self, values: list[tuple[str, bytes | memoryview]]) -> None:
        """Write many values: all or nothing up to 8 MiB and 500 names.

        Raises
        ------
        PartialWriteError
            Of several such batches some were written before one failed.
        """
        written: list[str] = []
        for batch in self._batches(File(name, value) for name, value in values):
            try:
                self._put(batch)
            except Exception as error:
                if not written:
                    raise
                message = f"{batch[0].name!r} was not written to {self.connection.place}, {len(written)} before it were"
                raise PartialWriteError(message, written=tuple(written)) from error
            written += [file.name for file in batch]

    def insert(self, name: str, value: bytes | memoryview) -> bytes | None:
        """Write a value unless the name is there; return what is there then, None where that is the value."""
        while True:
            file = File(name, value)
            if self._put([file], replace=False):
                return None
            found = self.read(name)
            if found is not None:  # None: somebody has removed it meanwhile
                return found

    def take(self, name: str) -> bytes | None:
        """Remove a name and return what was there; None where nothing was."""
        if not self.connection.transacts():
            return self.take_name(name)

        def take(database: Database, session: Session) -> bytes | None:
            old = list(self.files(database).find({"filename": name}, _TAKEN, session=session).sort(NEWEST))
            if not old:
                return None
            pieces = self.chunks(database).find({"files_id": old[0]["_id"]}, {"_id": 0}, session=session)
            content = joined(old[0], 0, old[0]["length"], list(pieces.sort("n", 1)))
            if content is None:
                raise self.lacks_pieces(name)
            self._drop(database, session, [file["_id"] for file in old])
            return content

        return self._transact(take)

    def remove(self, names: list[str]) -> int:
        """Remove all versions of some names; return how many names there were."""
        return self._remove({"filename": {"$in": names}} if len(names) > 1 else {"filename": names[0]})

    def remove_range(self, low: str, high: str | bytes) -> None:
        """Remove every name from ``low`` to before ``high``, 1024 in one transaction."""
        while names := self.names(low, high, None, KEYS_AT_ONCE):
            self._remove({"filename": {"$gte": names[0], "$lte": names[-1]}})

    # -- one transaction, or none -------------------------------------------------------------------------------------

    def _batches(self, files: Iterable[File]) -> Iterator[list[File]]:
        size, count = (TRANSACTION, _FILES_AT_ONCE) if self.connection.transacts() else (0, 1)
        batch: list[File] = []
        nbytes = 0
        for file in files:
            if batch and (nbytes + len(file.value) > size or len(batch) == count):
                yield batch
                batch, nbytes = [], 0
            batch.append(file)
            nbytes += len(file.value)
        if batch:
            yield batch

    def _put(self, batch: list[File], *, replace: bool = True) -> bool:
        """Write some files; return whether they are written: not, where one was there and was not to be replaced."""
        if not self.connection.transacts() or sum(len(file.value) for file in batch) > TRANSACTION:
            (file,) = batch
            return self.upload(file, replace=replace)
        documents = [file.document() for file in batch]
        pieces = [piece for file in batch for piece in file.pieces()]
        return self._transact(
            lambda database, session: self._swap(database, session, documents, pieces, batch, replace)
        )

    def _swap(  # what `_put` has prepared, once for however many attempts
        self,
        database: Database,
        session: Session,
        documents: list[Document],
        pieces: list[Document],
        batch: list[File],
        replace: bool,  # noqa: FBT001  # inner step
    ) -> bool:
        names: Any = {"$in": [file.name for file in batch]} if len(batch) > 1 else batch[0].name
        old = list(self.files(database).find({"filename": names}, _OLD, session=session).sort(NEWEST))
        ids = {repr(file["_id"]) for file in old}
        if all(repr(file.id) in ids for file in batch):
            return True  # our first attempt: its acknowledgement was lost
        if old and not replace:
            return False
        if old:
            self._drop(database, session, [file["_id"] for file in old])
        versions: dict[str, int] = {}
        for file in old:
            versions.setdefault(file["filename"], file.get("metadata", {}).get("zarrstream", 0))
        if pieces:
            self.chunks(database).insert_many(pieces, session=session)
        named = [
            {**document, "filename": file.name, "metadata": {"zarrstream": versions.get(file.name, 0) + 1}}
            for document, file in zip(documents, batch, strict=True)
        ]
        self.files(database).insert_many(named, session=session)
        return True

    def _drop(self, database: Database, session: Session, ids: list[Any]) -> None:
        which: Any = {"$in": ids} if len(ids) > 1 else ids[0]
        self.files(database).delete_many({"_id": which}, session=session)
        self.chunks(database).delete_many({"files_id": which}, session=session)

    def _remove(self, which: Document) -> int:
        if not self.connection.transacts():
            return self.bury(which)

        def drop(database: Database, session: Session) -> int:
            old = list(self.files(database).find(which, _OLD, session=session))
            if old:
                self._drop(database, session, [file["_id"] for file in old])
            return len({file["filename"] for file in old})

        return self._transact(drop)

    def _transact(self, work: Callable[[Database, Session], T]) -> T:
        """Run a transaction; again where another one made the same version of the same name a moment before."""

        def attempt(database: Database, session: Session) -> T:
            try:
                return work(database, session)
            except DriverError as error:
                if not is_duplicate(error):
                    raise
                # The unique index met what our snapshot does not show: a conflict like any other.
                error._add_error_label("TransientTransactionError")  # noqa: SLF001  # what the driver does itself
                raise

        return self.connection.transaction(attempt)


_OLD = {"filename": 1, "metadata.zarrstream": 1}
_TAKEN = {**_OLD, "length": 1, "chunkSize": 1}
