"""The writer of a checkpoint's record: appends what the store has acknowledged, and takes back what begins anew."""

from __future__ import annotations

import os
import threading
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

from zarrstream.streaming import record
from zarrstream.streaming.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zarrstream.concurrency.file_lock import FileLock
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.publication import Publication


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
        self._waiting: list[tuple[str, Index]] = []
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

    def passes_over(self, index: Index) -> bool:
        """Return whether an item is for a chunk that is done already; a second item for it is written."""
        if index in self._passed:
            return False
        self._passed.add(index)
        self._passes += 1
        return True

    def begins(self, indices: Iterable[Index]) -> None:
        """Take chunks back that are recorded and whose next item is about to be written.

        Should that fail, or be killed, the chunk holds an earlier item of the source, and is pending.
        """
        again = [index for index in indices if index in self._recorded]
        if again:
            with self._turn:
                back = set(again)
                self._waiting = [entry for entry in self._waiting if entry[1] not in back]
                for index in back:
                    self._recorded.discard(index)
                self._append([("p", index) for index in back])

    def add(self, kind: str, indices: Iterable[Index]) -> None:
        """Record chunks that the store has acknowledged, as ``"stored"`` or ``"elided"``."""
        for index in indices:
            self._waiting.append((kind[0], index))
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

    def _append(self, entries: list[tuple[str, Index]]) -> None:
        if not self._lock.held:
            raise RuntimeError("this write began before a fork: it goes on in the process that began it, not here")
        latest = {index: kind for kind, index in entries}
        lines = []
        for kind in ("p", "s", "e"):
            ordinals = sorted(self.done.ordinal(index) for index, what in latest.items() if what == kind)
            if ordinals:
                lines.append((kind, " ".join(_spans(ordinals))))
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
