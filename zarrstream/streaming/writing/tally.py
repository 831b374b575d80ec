"""The counts of one write: told to whoever listens, and reported at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zarrstream.errors import ChunkError, ChunkWriteError
from zarrstream.streaming.chunk import Progress, WriteReport

if TYPE_CHECKING:
    from zarrstream.streaming.writing.cuts import Piece
    from zarrstream.streaming.writing.frontier import Frontier, Item
    from zarrstream.streaming.writing.plan import WritePlan
    from zarrstream.streaming.writing.record_writer import Writer

_MOST_ERRORS = 100


class WriteTally:
    """Counts what was pulled and what became of it.

    Parameters
    ----------
    plan : WritePlan
        Whose listeners are told.
    record : Writer or None
        The opened checkpoint, which knows how many chunks were left.
    frontier : Frontier
        How far the source is settled.
    """

    def __init__(self, plan: WritePlan, record: Writer | None, frontier: Frontier) -> None:
        self._listeners = [call for call in (plan.progress, plan.listener) if call is not None]
        self._record, self._frontier = record, frontier
        self._started = time.monotonic()
        self._total = plan.total
        self._pulled = self._written = self._skipped = self._nbytes = self._failed = self._rewritten = 0
        self._errors: list[ChunkError] = []

    def add(self, item: Item) -> None:
        """Follow an item that was just pulled."""
        if self._total is not None:
            self._total += item.waiting - 1  # the source's length counts it as one
        self._frontier.add(item)

    def pull(self) -> None:
        """Count a chunk of an item."""
        self._pulled += 1

    def skip(self, item: Item) -> None:
        """Count a chunk that is passed over."""
        self._skipped += 1
        self._frontier.settle((item,))
        self._tell()

    def write(self, piece: Piece) -> None:
        """Count a chunk that is stored or elided."""
        self._written += len(piece.items)  # several, where a later item for a chunk of a shard took an earlier one in
        self._nbytes += piece.nbytes
        if self._record is not None and self._record.done.was_present(piece.index):
            self._rewritten += 1
        self._frontier.settle(piece.items)
        self._tell()

    def fail(self, piece: Piece, error: ChunkError) -> None:
        """Count a chunk that is given up."""
        self._failed += len(piece.items)
        if len(self._errors) < _MOST_ERRORS:
            self._errors.append(error)
        self._frontier.settle(piece.items)
        self._tell()

    def check_sum(self) -> None:
        """Refuse to end as if all were well where a chunk was pulled and nobody was told what became of it.

        Raises
        ------
        ChunkWriteError
            If there is such a chunk.
        """
        told = self._written + self._skipped + self._failed
        if told != self._pulled:
            raise ChunkWriteError(
                f"{self._pulled} chunks were pulled from the source, but only {told} were stored, skipped or reported "
                f"as failed: this is a fault of zarrstream; write them again, and please report it"
            )

    def report(self) -> WriteReport:
        """Return what came of it."""
        return WriteReport(
            written=self._written,
            skipped=self._skipped,
            failed=self._failed,
            nbytes=self._nbytes,
            seconds=time.monotonic() - self._started,
            last_index=self._frontier.last_index,
            errors=tuple(self._errors),
            lost=0 if self._record is None else self._record.done.lost,
            rewritten=self._rewritten,
        )

    def _tell(self) -> None:
        if self._listeners:
            now = Progress(
                self._written,
                self._total if self._total is not None or self._record is None else self._record.total,
                self._failed,
                self._skipped,
                self._nbytes,
                self._frontier.last_index,
            )
            for call in self._listeners:
                call(now)
