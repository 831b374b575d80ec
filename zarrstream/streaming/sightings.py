"""What is known of a watched chunk and of its job, and of the calls that a store answers for them."""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from zarrstream import telemetry

if TYPE_CHECKING:
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.sight import StreamSight

#: The job that this thread or task works on.
current_job: ContextVar[JobSight] = ContextVar("zarrstream_job")


class ChunkSight:
    """What is known of one chunk on its way. Times are of `perf_counter_ns`; 0 and None are "not yet".

    Parameters
    ----------
    index : tuple of int
        Which chunk.
    """

    __slots__ = ("begin", "coded", "end", "index", "missing", "moved", "note", "span", "stored")

    def __init__(self, index: Index) -> None:
        self.index = index
        self.begin = self.end = 0
        self.moved: float | None = None
        self.coded: float | None = None
        self.stored: int | None = None
        self.missing: bool | None = None
        self.note = telemetry.Note()
        self.span: Any = None

    def moves(self, nanoseconds: float) -> None:
        """It was fetched or stored for so long."""
        self.moved = (self.moved or 0) + nanoseconds
        self.end = perf_counter_ns()

    def attributes(self, moving: str, coding: str) -> dict[str, Any]:
        """What a span says of it."""
        known = {
            "zarrstream.chunk.stored_bytes": self.stored,
            "zarrstream.chunk.missing": self.missing,
            f"zarrstream.chunk.{moving}.duration": self.moved and self.moved / 1e9,
            f"zarrstream.chunk.{coding}.duration": self.coded and self.coded / 1e9,
        }
        return {name: value for name, value in known.items() if value is not None} | self.note.attributes


class JobSight:
    """What is known of one job: of its chunks, and of requests that served several of them.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    chunks : list of ChunkSight
        Its chunks.
    """

    def __init__(self, codec: ArrayCodec, chunks: list[ChunkSight]) -> None:
        self.chunks = chunks
        self.alone = codec.grid.shards is None
        self.by_key = {codec.key(chunk.index): chunk for chunk in chunks} if self.alone else {}
        self.shared = ChunkSight(())
        self.encoded = 0

    def begin(self) -> None:
        """Start the clocks that do not run yet."""
        now = perf_counter_ns()
        for chunk in self.chunks:
            chunk.begin = chunk.begin or now

    def share_out(self) -> None:
        """Give each chunk its share of what served all of them."""
        shared = self.shared
        if shared.moved is None:
            return
        for chunk in self.chunks:
            chunk.moved = (chunk.moved or 0) + shared.moved / len(self.chunks)
            chunk.end = max(chunk.end, shared.end)
            chunk.note.attempts = max(chunk.note.attempts, shared.note.attempts)
            if shared.note.cache_hit is not None:
                chunk.note.cache_hit = shared.note.cache_hit


class Request:
    """One call of a store: what it takes, and for which chunk.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    key : str
        The store's key.
    """

    def __init__(self, observer: StreamSight, key: str) -> None:
        self._observer = observer
        self._job = current_job.get()
        self.chunk = self._job.by_key.get(key, self._job.shared)
        self._surroundings = ExitStack()
        self._since = 0

    def begin(self) -> None:
        """Start the clock: the call is about to leave."""
        self._since = perf_counter_ns()
        if self.chunk is self._job.shared:
            self._job.begin()
        else:
            self.chunk.begin = self.chunk.begin or self._since
            self._surroundings.enter_context(telemetry.under(self._observer.open_span(self.chunk)))
        self._surroundings.enter_context(telemetry.noting(self.chunk.note))

    def end(self) -> None:
        """Stop the clock."""
        self._surroundings.close()
        if self._since:
            self.chunk.moves(perf_counter_ns() - self._since)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()
