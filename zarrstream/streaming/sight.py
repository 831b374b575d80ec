"""A stream as telemetry sees it: a span for the pass, one for each chunk, and the metrics of `zarrstream.signals`.

The watched parts (`zarrstream.streaming.watched`) say what happens; here it becomes spans and metrics. It is imported
where somebody listens, and not before.
"""

from __future__ import annotations

import os
import threading
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

import zarr

from zarrstream import identity, signals, telemetry
from zarrstream.errors import ChunkError
from zarrstream.streaming import watched, watched_window
from zarrstream.streaming.chunk import Chunk
from zarrstream.streaming.engine.job import Failure
from zarrstream.streaming.engine.observer import Observer
from zarrstream.streaming.sightings import ChunkSight, JobSight
from zarrstream.streaming.writing.store import ELIDED

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.job import Halt, Job
    from zarrstream.streaming.engine.window import Inbox, LoopInbox, Window
    from zarrstream.streaming.engine.workers import Line
    from zarrstream.streaming.reading.decode import Decoder
    from zarrstream.streaming.transport.stores import LoopTransport, SyncPort
    from zarrstream.streaming.writing.frontier import Frontier

_STAGES = {"read": ("fetch", "decode"), "write": ("store", "encode")}


class StreamSight(Observer):
    """What telemetry is told of one pass.

    Parameters
    ----------
    sight : Sight
        Who listens.
    codec : ArrayCodec
        The array.
    kind : str
        What streams.
    """

    def __init__(self, sight: telemetry.Sight, codec: ArrayCodec, kind: str) -> None:
        self._sight, self.codec = sight, codec
        self.direction = "write" if kind == "write" else "read"
        self._process = os.getpid()
        self._epoch = time_ns() - perf_counter_ns()  # what the spans' clock is ahead of the durations'
        store = codec.array.store
        self._flow = {"zarrstream.io.direction": self.direction, "zarrstream.store": identity.kind_of(store)}
        self._moving, self._coding = ({**self._flow, "zarrstream.chunk.stage": at} for at in _STAGES[self.direction])
        self._span = sight.start(signals.STREAM, self._description(kind, store))
        self._context = telemetry.context_of(self._span)
        self._traces_chunks = self._span is not None and bool(zarr.config.get("zarrstream.trace_chunks", True))
        self._lock = threading.Lock()
        self._jobs: dict[Job, JobSight] = {}
        self._unfinished: dict[Index, ChunkSight] = {}  # of jobs that have ended: tried again, or left
        self._over = False
        self._idle_since: int | None = None
        self._running = self._in_flight = self._held_bytes = self._lag = 0
        self._chunks = self._failed = self._decoded = self._stored = 0

    def _description(self, kind: str, store: object) -> dict[str, Any]:
        return {
            "zarrstream.stream.kind": kind,
            "zarrstream.array.path": self.codec.array.store_path.path,
            "zarrstream.array.codecs": _names(self.codec.describe()),
            "zarrstream.store": self._flow["zarrstream.store"],
            **identity.database_of(store),
        }

    # -- the parts ----------------------------------------------------------------------------------------------------

    def inside(self) -> AbstractContextManager[Any]:
        """Make the stream's span the current one."""
        return telemetry.under(self._span)

    def inbox(self) -> Inbox:
        """Where finished jobs arrive for a consumer in a thread, watched."""
        return watched_window.WatchedInbox(self)

    def loop_inbox(self) -> LoopInbox:
        """Where finished jobs arrive for a consumer on the running loop, watched."""
        return watched_window.WatchedLoopInbox(self)

    def window(self, line: Line, inbox: Inbox | LoopInbox, halt: Halt, **limits: Any) -> Window:
        """Make the pass's window, watched."""
        return watched_window.WatchedWindow(self, line, inbox, halt, **limits)

    def frontier(self) -> Frontier:
        """What follows the items of a source, watched."""
        return watched_window.WatchedFrontier(self)

    def port(self, port: SyncPort | None) -> SyncPort | None:
        """What reads and writes in the calling thread, watched."""
        return None if port is None else watched.WatchedPort(self, port)

    def awaited(self, transport: LoopTransport) -> LoopTransport:
        """What is awaited, watched."""
        return watched.WatchedTransport(self, transport)

    def decoder(self, decoder: Decoder) -> Decoder:
        """What makes chunks of bytes, watched."""
        return watched.WatchedDecoder(decoder)

    def encoder(self, codec: ArrayCodec) -> ArrayCodec:
        """What makes bytes of chunks, watched."""
        return watched.WatchedEncoder(codec)

    def policy(self, policy: Callable[[ChunkError], object] | None) -> Callable[[ChunkError], object] | None:
        """What decides about a chunk that failed, watched."""
        return None if policy is None else watched_window.WatchedPolicy(self, policy)

    # -- what they say -------------------------------------------------------------------------------------------------

    def job_of(self, job: Job) -> JobSight:
        """What is known of a job; a chunk that is tried again goes on where it failed."""
        if (found := self._jobs.get(job)) is None:
            chunks = [
                self._unfinished.pop(index) if index in self._unfinished else ChunkSight(index) for index in job.indices
            ]
            found = self._jobs[job] = JobSight(self.codec, chunks)
        return found

    def open_span(self, chunk: ChunkSight) -> Any:
        """Begin a chunk's span, where it has none; none begins once the stream's has ended."""
        if self._over:
            return None
        if chunk.span is None and self._traces_chunks:
            name = signals.CHUNK_READ if self.direction == "read" else signals.CHUNK_WRITE
            about = {
                "zarrstream.chunk.index": chunk.index,
                "zarrstream.chunk.key": self.codec.key(self.codec.grid.object_of(chunk.index)),
            }
            span = self._sight.start(name, about, within=self._context, begin=self._epoch + chunk.begin)
            with self._lock:
                if not self._over:
                    chunk.span = span
                    return span
            if span is not None:  # the stream ended in between
                span.end()
            return None
        return chunk.span

    def submitted(self, chunks: int, nbytes: int) -> None:
        """A job of so many chunks and decoded bytes is about to begin."""
        with self._lock:
            waited_since, self._idle_since = self._idle_since, None
            self._running += 1
            self._in_flight += chunks
            self._held_bytes += nbytes
        if waited_since is not None:
            self.waited("stream", waited_since)
        self._sight.measure(signals.IN_FLIGHT, chunks, self._flow)
        self._sight.measure(signals.BUFFER_USAGE, nbytes, self._flow)

    def released(self, chunks: int, nbytes: int) -> None:
        """The consumer has them, or they are acknowledged."""
        with self._lock:
            self._in_flight -= chunks
            self._held_bytes -= nbytes
        self._sight.measure(signals.IN_FLIGHT, -chunks, self._flow)
        self._sight.measure(signals.BUFFER_USAGE, -nbytes, self._flow)

    def followed(self, chunks: int) -> None:
        """So many chunks were pulled from the source; below zero: settled."""
        chunks = int(chunks)  # a region may be given in numpy's integers, which exporters do not write
        self._lag += chunks
        self._sight.measure(signals.LAG, chunks, self._flow)

    def waited(self, who: str, since: int) -> None:
        """The caller or the stream has waited until now."""
        now = perf_counter_ns()
        about = {"zarrstream.stream.waiting": who}
        self._sight.measure(signals.BACKPRESSURE, (now - since) / 1e9, {**self._flow, **about})
        if self._traces_chunks:
            span = self._sight.start(signals.WAIT, about, within=self._context, begin=self._epoch + since)
            if span is not None:
                span.end(self._epoch + now)

    def ended(self, job: Job, late: tuple[int, int] | None = None) -> None:
        """A job has ended, or was given up because of its chunks at these half-open positions."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._idle_since = perf_counter_ns()
            found = self._jobs.pop(job, None)
        if found is None:
            return
        found.share_out()
        stored = 0
        results = job.results[: late and late[0]]
        for chunk, result in zip(found.chunks, results, strict=False):
            if isinstance(result, Failure):
                self._unfinished[chunk.index] = chunk
            else:
                self._finish(chunk, result)
                stored += chunk.stored or 0
        if stored:
            self._sight.measure(signals.CHUNK_IO, stored, self._flow)
        for chunk in found.chunks[len(results) :]:
            self._unfinished[chunk.index] = chunk

    def retried(self, error: ChunkError) -> None:
        """A chunk that failed is tried again, which is no error of the stream's."""
        chunk = self._unfinished.setdefault(error.index, ChunkSight(error.index))
        chunk.note.attempts += 1

    def gave_up(self, error: ChunkError) -> None:
        """A chunk failed for good."""
        chunk = self._unfinished.pop(error.index, ChunkSight(error.index))
        self._failed += 1
        chunk.begin = chunk.begin or perf_counter_ns()
        end = perf_counter_ns()
        about = {**self._flow, "error.type": telemetry.error_type(error)}
        self._sight.measure(signals.CHUNK_DURATION, (end - chunk.begin) / 1e9, about)
        if (span := self.open_span(chunk)) is not None:
            span.set_attributes(chunk.note.attributes)
            telemetry.fail(span, error)
            span.end(self._epoch + end)

    def _finish(self, chunk: ChunkSight, result: Any) -> None:
        end = chunk.end or perf_counter_ns()
        chunk.begin = chunk.begin or end
        decoded = result.data.nbytes if isinstance(result, Chunk) else 0
        if self.direction == "write":
            decoded = self.codec.grid.chunk_nbytes
            chunk.missing = result is ELIDED
        with self._lock:
            self._chunks += 1
            self._decoded += decoded
            self._stored += chunk.stored or 0
        self._measure(chunk, end)
        if (span := self.open_span(chunk)) is not None:
            if span.is_recording():
                span.set_attributes(
                    {**chunk.attributes(*_STAGES[self.direction]), "zarrstream.chunk.decoded_bytes": decoded}
                )
            span.end(self._epoch + end)

    def _measure(self, chunk: ChunkSight, end: int) -> None:
        measure = self._sight.measure
        measure(signals.CHUNK_DURATION, (end - chunk.begin) / 1e9, self._flow)
        if chunk.moved is not None:
            measure(signals.STAGE_DURATION, chunk.moved / 1e9, self._moving)
        if chunk.coded is not None:
            measure(signals.STAGE_DURATION, chunk.coded / 1e9, self._coding)

    def end(self, error: BaseException | None) -> None:
        """End the stream's span, and take back what is in flight no more."""
        if os.getpid() != self._process:  # a fork's child has no part in what its parent began
            return
        if isinstance(error, ChunkError):
            self.gave_up(error)
        self._leave_chunks()
        self.released(self._in_flight, self._held_bytes)
        if self._lag:
            self.followed(-self._lag)
        span = self._span
        if span is None:
            return
        left = error is not None and not isinstance(error, Exception)  # also by whoever cancelled the task
        span.set_attributes(
            {
                "zarrstream.stream.outcome": "closed" if left else "completed" if error is None else "error",
                "zarrstream.stream.chunks": self._chunks,
                "zarrstream.stream.failed": self._failed,
                "zarrstream.stream.decoded_bytes": self._decoded,
                "zarrstream.stream.stored_bytes": self._stored,
            }
        )
        if error is not None and not left:
            telemetry.fail(span, error)
        span.end()

    def _leave_chunks(self) -> None:
        """End the spans of the chunks that were left under way: each that began ends, and did not fail."""
        with self._lock:
            self._over = True
            left = [chunk for job in self._jobs.values() for chunk in job.chunks]
            left += self._unfinished.values()
            self._jobs, self._unfinished = {}, {}
        for chunk in left:
            if chunk.span is not None:
                chunk.span.end()


def _names(document: dict[str, Any]) -> list[str]:
    """Return the names of an array's codecs; a shard's inner ones come after it."""
    codecs = document.get("codecs") or [*(document.get("filters") or ()), document.get("compressor")]
    inner = [codec.get("configuration", {}) for codec in codecs if codec]
    return [
        *(str(codec.get("name") or codec.get("id")) for codec in codecs if codec),
        *(name for more in inner if more.get("codecs") for name in _names(more)),
    ]
