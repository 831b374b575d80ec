"""The writer of a checkpoint's record: appends what the store has acknowledged, and takes back what begins anew."""

from __future__ import annotations

import os
import threading
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

from zarrstream.streaming.layout.bitmap import Presence
from zarrstream.streaming.layout.boxes import box_of, joined, overlaps, volume, within
from zarrstream.streaming.writing import record
from zarrstream.streaming.writing.record_parts import show_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zarrstream.concurrency.file_lock import FileLock
    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.layout.boxes import Box
    from zarrstream.streaming.writing.cuts import Piece
    from zarrstream.streaming.writing.flush import Publication


class Tail:
    """The end of a checkpoint's file, where lines are appended.

    Parameters
    ----------
    path : str
        The file's name, for messages.
    descriptor : int
        The open file; closed by `close`.
    end, checksum : int
        Where the next line begins, and the checksum of all before it.
    """

    def __init__(self, path: str, descriptor: int, end: int, checksum: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._end, self._checksum = end, checksum

    def append(self, lines: Iterable[tuple[str, str]]) -> None:
        """Append lines, each a letter and its content; all of them or none."""
        checksum, data = self._checksum, b""
        for kind, content in lines:
            text, checksum = record.line(kind, content, checksum)
            data += text
        self._write(data, checksum)

    def begin(self, header: bytes) -> None:
        """Write the first line."""
        self._write(header, zlib.crc32(header))

    def _write(self, data: bytes, checksum: int) -> None:
        try:
            # An append that was interrupted has left what is not counted.
            os.ftruncate(self._descriptor, self._end)
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], self._end + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error
        self._end, self._checksum = self._end + len(data), checksum

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Writer:
    """Appends to a checkpoint; made by `Checkpoint.open`, which took the lock.

    Parameters
    ----------
    tail : Tail
        The file.
    lock : FileLock
        Held by this process. A forked child does not hold it, and writes nothing.
    done : Record
        What was done when it was opened.
    publication : Publication
        Makes the store's writes durable; run before any is recorded.
    """

    def __init__(self, tail: Tail, lock: FileLock, done: record.Record, publication: Publication) -> None:
        self._tail, self._lock, self.done, self._publication = tail, lock, done, publication
        self._waiting: list[tuple[str, Index, Box | None]] = []
        self._parts = dict(done.parts)  # of chunks that are not recorded, what is stored of them
        self._before = dict(done.parts)  # the same as it was at the beginning, until all of it is passed over
        self._behind: dict[Index, list[Box]] = {}  # what has been passed over of chunks of which there is more to pass
        self._recorded = Presence.of(done.done.flags())
        self._passed = Presence.of(~done.done.flags())
        self._passes = 0
        self._turn = threading.Lock()  # an awaited flush that was cancelled goes on in its thread, and `close` waits

    @property
    def is_due(self) -> bool:
        """Whether it is time for a `flush`, which `add` leaves to the caller where the store has to publish."""
        return self._publication.is_needed and self._publication.is_due(len(self._waiting))

    @property
    def total(self) -> int:
        """The chunks of this pass: those that were left when it began, and those that it has passed over since."""
        return self.done.left + self._passes

    def passes_over(self, index: Index, where: Region | None = None) -> bool:
        """Return whether an item is for a chunk, or the ``where`` of it, that is done already.

        A second item for the same positions is written, and so is all that comes for the chunk behind it.
        """
        extent = self.done.extent(index)
        box = extent if where is None else box_of(where)
        done = self._before.get(index) if index in self._passed else extent
        if done is None:
            return False
        passed = self._behind.pop(index, [])
        if any(overlaps(box, other) for other in passed) or (overlaps(box, done) and not within(box, done)):
            self._pass(index)
            return False
        if not within(box, done):
            self._behind[index] = passed
            return False
        passed.append(box)
        if sum(map(volume, passed)) < volume(done):
            self._behind[index] = passed
        else:
            self._pass(index)
        self._passes += 1
        return True

    def _pass(self, index: Index) -> None:
        self._passed.add(index)
        self._before.pop(index, None)

    def begins(self, pieces: Iterable[Piece]) -> None:
        """Take chunks and parts back that are recorded and whose next item is about to be written.

        Should that fail, or be killed, the chunk holds an earlier item of the source, and is pending.
        """
        back = set()
        for piece in pieces:
            index, box, part = piece.index, piece.bounds, self._parts.get(piece.index)
            if index in self._recorded:
                back.add(index)
                if box is not None:
                    self._parts[index] = self.done.extent(index)  # as soon as this part is stored, too
            elif part is not None and (box is None or overlaps(box, part)):
                back.add(index)
            if box is None:
                self._parts.pop(index, None)
        if back:
            with self._turn:
                self._waiting = [entry for entry in self._waiting if entry[1] not in back]
                for index in back:
                    self._recorded.discard(index)
                self._append([("p", index, None) for index in back])

    def give_up(self, piece: Piece) -> None:
        """Forget what was stored of a chunk before an item that failed: what follows does not make it done."""
        self._parts.pop(piece.index, None)

    def add_part(self, piece: Piece, kind: str) -> None:
        """Record a part of a chunk that the store has acknowledged, and the chunk where that is its last.

        Of a part that is no box nothing is recorded, nor of one that makes none with what is recorded: should the
        write be killed, it is merged again.
        """
        box, part, extent = piece.bounds, self._parts.get(piece.index), self.done.extent(piece.index)
        if box is None or piece.given is None or int(piece.given.sum()) != volume(box):
            return
        whole = (box if part is None else joined(part, box)) or max(part or box, box, key=volume)
        if within(extent, whole):
            self._parts.pop(piece.index, None)
            self.add(kind, [piece.index])
        elif kind == "stored":
            self._parts[piece.index] = whole
            self._waiting.append(("m", piece.index, whole))
            if not self._publication.is_needed:
                self.flush()

    def add(self, kind: str, indices: Iterable[Index]) -> None:
        """Record chunks that the store has acknowledged, as ``"stored"`` or ``"elided"``."""
        for index in indices:
            self._waiting.append((kind[0], index, None))
            self._recorded.add(index)
        if not self._publication.is_needed:
            self.flush()

    def flush(self) -> None:
        """Write what was added, after the store has published it."""
        with self._turn:
            acknowledged = self._waiting[:]
            if not acknowledged:
                return
            self._publication.run()
            self._append(acknowledged)
            del self._waiting[: len(acknowledged)]

    def _append(self, entries: list[tuple[str, Index, Box | None]]) -> None:
        if not self._lock.held:
            raise RuntimeError("this write began before a fork: it goes on in the process that began it, not here")
        latest = {index: (kind, box) for kind, index, box in entries}
        lines = []
        for kind in ("p", "s", "e"):
            ordinals = sorted(self.done.ordinal(index) for index, (what, _) in latest.items() if what == kind)
            if ordinals:
                lines.append((kind, " ".join(_spans(ordinals))))
        parts = [show_part(self.done.ordinal(index), box) for index, (_, box) in latest.items() if box is not None]
        if parts:
            lines.append(("m", " ".join(parts)))
        self._tail.append(lines)

    def close(self) -> None:
        """Write what is left and give the lock back."""
        try:
            if self._lock.held:
                self.flush()
        finally:
            self._tail.close()
            self._lock.release()


def _spans(ordinals: list[int]) -> Iterator[str]:
    start = ordinals[0]
    for before, after in pairwise([*ordinals, -1]):
        if after != before + 1:
            yield str(start) if start == before else f"{start}-{before}"
            start = after
