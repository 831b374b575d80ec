"""Writing without transactions: an upload is a file without a name until, in one step, it gets its name and version.

On a server without transactions, and for values that are too large for one:

1. a file document without a name says until when the upload is believed to be alive, by the server's clock;
2. the pieces follow, and the document is renewed meanwhile;
3. one update gives the document its name and the next version. A unique index gives each version to one writer;
   whoever comes second asks for the newest again. No clock decides which is newer;
4. what is replaced loses its name (in one step), then its pieces, then its document.

A document without a name whose time is over is a leftover of a killed process: the next writer removes it in the order
of step 4, so that a piece never outlives its document. Taking the time away and giving the name are updates of one and
the same document: an upload that was given up finds that out, and begins anew.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from zarrstream.mappings.gridfs.errors import is_duplicate
from zarrstream.mappings.gridfs.files import NEWEST, UNTIL, VERSION, File, Files, joined
from zarrstream.mappings.gridfs.session import DriverError, new_id

if TYPE_CHECKING:
    from zarrstream.mappings.gridfs.session import Database, Document

#: How long an upload that nobody renews is believed to be alive, in seconds.
ALIVE = 300.0
_OVER = datetime(1970, 1, 1, tzinfo=UTC)
_PIECES_AT_ONCE = 16
_NAMELESS = {"filename": None, UNTIL: {"$exists": True}}


class UploadedFiles(Files):
    """The files of one bucket, written without transactions."""

    _swept = float("-inf")

    def upload(self, file: File, *, replace: bool) -> bool:
        """Write a file; return whether it is written: not, where one was there and was not to be replaced."""
        if time.monotonic() - self._swept > ALIVE:
            self.sweep()
        while True:
            done = self.connection.call(partial(self._upload, file=file, replace=replace))
            if done is not None:
                return done
            file = File(file.name, file.value)  # given up by a sweeper, after a halt of minutes: all over again

    def _upload(self, database: Database, *, file: File, replace: bool) -> bool | None:
        if file.named is not None and time.monotonic() - file.named < ALIVE / 2:
            # The second attempt. Nobody gives up what was announced a moment ago: without its time it had its name,
            # and another writer has replaced or removed it since, which stays.
            files = self.files(database)
            alive = {"_id": file.id, "$or": [{"filename": {"$exists": True}}, {UNTIL: {"$gt": _OVER}}]}
            if files.find_one(alive, {"_id": 1}) is None:
                self._bury(database, [file.id])
                return True
        self._announce(database, file)
        renewed = time.monotonic()
        pieces = file.pieces()
        while some := list(islice(pieces, _PIECES_AT_ONCE)):
            self._insert(database, some)
            if time.monotonic() - renewed > ALIVE / 4:
                self._announce(database, file)
                renewed = time.monotonic()
        return self._publish(database, file, replace)

    def _announce(self, database: Database, file: File) -> None:
        """Say that the upload is alive. A second time as well: after a lost acknowledgement, or for longer."""
        content = {name: {"$literal": value} for name, value in file.document().items() if name != "_id"}
        until = {"$add": ["$$NOW", ALIVE * 1000]}
        key = {"_id": file.id}
        files = self.connection.hasty(self.files(database))
        if files.find_one(key, {"_id": 1}) is None:
            files.update_one(key, [{"$set": {**content, UNTIL: until}}], upsert=True)
        else:
            files.update_one({**key, **_NAMELESS, UNTIL: {"$gt": _OVER}}, [{"$set": {UNTIL: until}}])

    def _insert(self, database: Database, pieces: list[Document]) -> None:
        try:
            self.connection.hasty(self.chunks(database)).insert_many(pieces, ordered=False)
        except DriverError as error:
            if not is_duplicate(error):  # pieces of the first attempt, whose acknowledgement was lost
                raise

    def _publish(self, database: Database, file: File, replace: bool) -> bool | None:  # noqa: FBT001  # inner step
        """Give the upload its name and version; None where it has been given up."""
        files = self.files(database)
        while True:
            old = list(files.find({"filename": file.name}, _OLD).sort(NEWEST))
            if any(found["_id"] == file.id for found in old):
                break  # our first attempt: its acknowledgement was lost
            if old and not replace:
                self._bury(database, [file.id])
                return False
            version = old[0].get("metadata", {}).get("zarrstream", 0) + 1 if old else 1
            named = {"$set": {"filename": file.name, "metadata": {"zarrstream": version}}}
            try:
                file.named = time.monotonic()
                named["$currentDate"] = {"uploadDate": True}  # type: ignore[dict-item]  # the server's clock
                if not files.update_one({"_id": file.id, UNTIL: {"$gt": _OVER}}, named).matched_count:
                    if files.find_one({"_id": file.id, "filename": file.name}, {"_id": 1}):
                        break
                    self._bury(database, [file.id])
                    return None
            except DriverError as error:
                if not is_duplicate(error):
                    raise
                continue  # another writer has this version
            break
        return self._settle(database, file, replace)

    def _settle(self, database: Database, file: File, replace: bool) -> bool:  # noqa: FBT001  # inner step
        """Remove what is not the newest, which may be what was just written: another one was faster, and came later."""
        found = list(self.files(database).find({"filename": file.name}, _OLD).sort(NEWEST))
        if len(found) > 1:
            self._bury(database, [other["_id"] for other in found[1:]])
        return replace or not found or bool(found[0]["_id"] == file.id)

    def take_name(self, name: str) -> bytes | None:
        """Remove a name and return what was there, in one step; None where nothing was."""
        mine = new_id()  # by which the second attempt knows what the first has taken
        gone = {"$set": {"metadata": {"zarrstream_until": _OVER, "zarrstream_taken": mine}}, "$unset": {"filename": ""}}
        tried: list[tuple[Any, bytes]] = []
        taken: list[Any] = []

        def take(database: Database) -> bytes | None:
            files = self.files(database)
            while True:
                if taken or (
                    tried and files.find_one({"_id": tried[-1][0], "metadata.zarrstream_taken": mine}, {"_id": 1})
                ):
                    break
                found = list(files.find({"filename": name}, {**_OLD, "length": 1, "chunkSize": 1}).sort(NEWEST))
                if not found:
                    return None
                file = found[0]
                content = joined(file, 0, file["length"], self._pieces(database, file, 0, file["length"] or 1))
                if content is None:
                    if files.find_one({"_id": file["_id"], "filename": name}, {"_id": 1}):
                        raise self.lacks_pieces(name)
                    continue  # replaced meanwhile
                if found[1:]:
                    self._bury(database, [older["_id"] for older in found[1:]])
                tried.append((file["_id"], content))
                if files.update_one({"_id": file["_id"], "filename": name}, gone).matched_count:
                    break
            taken.append(mine)
            id_, value = tried[-1]
            self._bury(database, [id_])
            return value

        return self.connection.call(take)

    def bury(self, which: Document) -> int:
        """Remove the files that a filter names; return how many names there were."""
        found: list[Document] = []

        def remove(database: Database) -> int:
            # The second attempt removes what the first has found, and nothing that another writer wrote since.
            if not found:
                found.extend(self.files(database).find(which, {"filename": 1}))
            if found:
                self._bury(database, [file["_id"] for file in found])
            return len({file["filename"] for file in found})

        return self.connection.call(remove)

    def _bury(self, database: Database, ids: list[Any]) -> None:
        """Take the names of some files, then their pieces, then their documents."""
        some = {"$in": ids}
        gone = {"$set": {"metadata": {"zarrstream_until": _OVER}}, "$unset": {"filename": ""}}
        self.files(database).update_many({"_id": some}, gone)
        self.connection.hasty(self.chunks(database)).delete_many({"files_id": some})
        self.connection.hasty(self.files(database)).delete_many({"_id": some})

    def sweep(self) -> None:
        """Remove what killed uploads and removals have left, once their time is over."""
        self._swept = time.monotonic()
        self.connection.call(self._sweep)

    def _sweep(self, database: Database) -> None:
        files = self.files(database)
        over = {**_NAMELESS, "$expr": {"$lt": [f"${UNTIL}", "$$NOW"]}}
        late = [file["_id"] for file in files.find(over, {"_id": 1})]
        if late:
            # The time is taken in the same step that asks whether it is over: an upload renewed meanwhile lives on.
            files.update_many({**over, "_id": {"$in": late}}, {"$set": {UNTIL: _OVER}})
            given_up = [
                file["_id"] for file in files.find({**_NAMELESS, UNTIL: _OVER, "_id": {"$in": late}}, {"_id": 1})
            ]
            if given_up:
                self._bury(database, given_up)


_OLD = {"filename": 1, VERSION: 1}
