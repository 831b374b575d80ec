"""The parts of a stream that is watched: each does what the plain one does, and says so."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream import telemetry
from zarrstream.errors import ChunkTimeoutError
from zarrstream.streaming.codec import ArrayCodec
from zarrstream.streaming.crew import Failure, Line
from zarrstream.streaming.decode import Decoder
from zarrstream.streaming.items import Frontier
from zarrstream.streaming.sightings import Request, current_job
from zarrstream.streaming.transport import LoopTransport
from zarrstream.streaming.window import Inbox, LoopInbox, Window

Values = TypeVar("Values", list[Any], list[Any] | None)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from zarrstream.errors import ChunkError
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.crew import Halt, Job, Stage
    from zarrstream.streaming.items import Item
    from zarrstream.streaming.sight import StreamSight


class WatchedPort:
    """What reads and writes in the calling thread, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    port : SyncPort
        What does it.
    """

    def __init__(self, observer: StreamSight, port: Any) -> None:
        self._observer, self._port = observer, port
        self.get_many = self._get_many if getattr(port, "get_many", None) else None
        self.put_many = self._put_many if getattr(port, "put_many", None) else None

    def get(self, key: str, start: int = 0, stop: int | None = None) -> Any | None:
        """Read a value or a range of it."""
        with Request(self._observer, key):
            return self._port.get(key, start, stop)

    def put(self, key: str, pieces: Iterable[Any]) -> None:
        """Store a value."""
        with Request(self._observer, key):
            self._port.put(key, pieces)

    def delete(self, key: str) -> None:
        """Remove a key."""
        with Request(self._observer, key):
            self._port.delete(key)

    def _get_many(self, keys: Sequence[str]) -> list[Any]:
        with Request(self._observer, ""):
            return self._port.get_many(keys)  # type: ignore[no-any-return]

    def _put_many(self, items: Sequence[tuple[str, list[Any]]]) -> None:
        with Request(self._observer, ""):
            self._port.put_many(items)


class WatchedTransport(LoopTransport):
    """What is awaited, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    transport : LoopTransport
        What does it.
    """

    def __init__(self, observer: StreamSight, transport: LoopTransport) -> None:
        self._observer, self._transport = observer, transport
        self.gate = transport.gate

    async def get(self, key: str, start: int = 0, stop: int | None = None, *, began: Callable[[], None]) -> Any | None:
        """Read a value or a range of it."""
        with self._request(key, began) as leaves:
            return await self._transport.get(key, start, stop, began=leaves)

    async def put(self, key: str, pieces: Iterable[Any], *, began: Callable[[], None]) -> None:
        """Store a value."""
        with self._request(key, began) as leaves:
            await self._transport.put(key, pieces, began=leaves)

    async def delete(self, key: str, *, began: Callable[[], None]) -> None:
        """Remove a key."""
        with self._request(key, began) as leaves:
            await self._transport.delete(key, began=leaves)

    @contextmanager
    def _request(self, key: str, began: Callable[[], None]) -> Iterator[Callable[[], None]]:
        request = Request(self._observer, key)

        def leaves() -> None:
            began()
            request.begin()

        try:
            yield leaves
        finally:
            request.end()


class WatchedDecoder(Decoder):
    """What makes chunks of bytes, watched.

    Parameters
    ----------
    decoder : Decoder
        What does it.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def decode(
        self, job: Job, indices: list[Index], raws: list[Any], decode: Callable[[Any], Any], spent: list[float]
    ) -> None:
        """Add to a job's results."""
        first, since = len(job.results), perf_counter_ns()
        self._decoder.decode(job, indices, raws, decode, spent)
        now = perf_counter_ns()
        share = (now - since) / max(1, sum(raw is not None and type(raw) is not Failure for raw in raws))
        for chunk, raw in zip(current_job.get().chunks[first:], raws, strict=False):
            chunk.begin, chunk.end = chunk.begin or since, now
            if type(raw) is not Failure:
                chunk.missing = raw is None
                chunk.stored, chunk.coded = (None, None) if raw is None else (memoryview(raw).nbytes, share)


class WatchedEncoder(ArrayCodec):
    """What makes bytes of chunks, watched: an `ArrayCodec` in everything else.

    Parameters
    ----------
    codec : ArrayCodec
        What does it.
    """

    def __init__(self, codec: ArrayCodec) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, data: Any) -> Any | None:
        """Encode a whole stored object."""
        return self._timed(lambda: [self._codec.encode(data)])[0]

    def encode_inner(self, data: Any) -> Any | None:
        """Encode one chunk of a shard."""
        return self._timed(lambda: [self._codec.encode_inner(data)])[0]

    def encode_all(self, run: list[Any]) -> list[Any] | None:
        """Encode chunks at once."""
        return self._timed(lambda: self._codec.encode_all(run))

    def _timed(self, work: Callable[[], Values]) -> Values:
        job, since = current_job.get(), perf_counter_ns()
        try:
            values = work()
        except BaseException:
            job.encoded += 1
            raise
        if values is not None:
            share = (perf_counter_ns() - since) / len(values)
            for chunk, value in zip(job.chunks[job.encoded :], values, strict=False):
                chunk.begin, chunk.coded = chunk.begin or since, share
                chunk.stored = None if value is None else memoryview(value).nbytes
            job.encoded += len(values)
        return values


class WatchedPolicy:
    """What decides about a chunk that failed, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    policy : callable
        What decides.
    """

    def __init__(self, observer: StreamSight, policy: Callable[[ChunkError], object]) -> None:
        self._observer, self._policy = observer, policy

    def __call__(self, error: ChunkError) -> object:
        """Decide."""
        answer = self._policy(error)
        stuck = self._observer.direction == "write" and isinstance(error, ChunkTimeoutError)
        if answer == "retry" and not stuck:
            self._observer.retried(error)
        else:
            self._observer.gave_up(error)
        return answer


class WatchedFrontier(Frontier):
    """What follows the items of a source, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    """

    def __init__(self, observer: StreamSight) -> None:
        super().__init__()
        self._observer = observer

    def add(self, item: Item) -> None:
        """Follow an item that was just pulled."""
        super().add(item)
        self._observer.followed(item.waiting)

    def settle(self, items: tuple[Item, ...]) -> None:
        """One chunk of each of these is settled."""
        super().settle(items)
        self._observer.followed(-len(items))


class WatchedInbox(Inbox):
    """Where finished jobs arrive for a consumer in a thread, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    """

    def __init__(self, observer: StreamSight) -> None:
        super().__init__()
        self._observer = observer

    def put(self, job: Job) -> None:
        """Hand over a finished job."""
        self._observer.ended(job)
        super().put(job)

    def wait(self, seconds: float | None) -> None:
        """Block until a job arrives or so many seconds are over."""
        since = perf_counter_ns()
        super().wait(seconds)
        self._observer.waited("caller", since)


class WatchedLoopInbox(LoopInbox):
    """Where finished jobs arrive for a consumer on an event loop, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    """

    def __init__(self, observer: StreamSight) -> None:
        super().__init__()
        self._observer = observer

    def put(self, job: Job) -> None:
        """Hand over a finished job."""
        self._observer.ended(job)
        super().put(job)

    async def wait(self, seconds: float | None) -> None:
        """Wait until a job arrives or so many seconds are over."""
        since = perf_counter_ns()
        await super().wait(seconds)
        self._observer.waited("caller", since)


class WatchedWindow(Window):
    """Jobs under way, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    line, inbox, halt, **limits
        As `Window` has them.
    """

    def __init__(self, observer: StreamSight, line: Line, inbox: Inbox | LoopInbox, halt: Halt, **limits: Any) -> None:
        super().__init__(_watched_line(observer, line), inbox, halt, **limits)
        self._observer = observer

    def submit(self, indices: list[Index], nbytes: int, load: Any, *, number: int | None = None) -> Job:
        """Start a job."""
        self._observer.submitted(len(indices), nbytes)
        return super().submit(indices, nbytes, load, number=number)

    def release(self, job: Job) -> None:
        """Give a consumed job's room back."""
        if job in self._held:
            self._observer.released(len(job.indices), job.nbytes)
        super().release(job)

    def overdue(self) -> list[tuple[Job, int, int]]:
        """Give up the jobs with a chunk that takes too long."""
        late = super().overdue()
        for job, first, last in late:
            self._observer.ended(job, (first, last))
        return late


def _watched_line(observer: StreamSight, line: Line) -> Line:
    """Have each stage know its job, and each chunk of an array that zarr reads as a whole its span."""
    return Line(
        work=line.work and _watched_work(observer, line.work),
        before=line.before and _watched_stage(observer, line.before),
        after=line.after and _watched_stage(observer, line.after),
        loop=line.loop,
    )


def _watched_work(observer: StreamSight, work: Callable[[Job], None]) -> Callable[[Job], None]:
    def watched(job: Job) -> None:
        current_job.set(observer.job_of(job))
        work(job)

    return watched


def _watched_stage(observer: StreamSight, stage: Stage) -> Stage:
    async def watched(job: Job, began: Callable[[], None]) -> None:
        about = observer.job_of(job)
        current_job.set(about)
        with ExitStack() as surroundings:

            def leaves() -> None:
                began()
                about.begin()
                if observer.codec.opaque and len(about.chunks) == 1:
                    surroundings.enter_context(telemetry.under(observer.open_span(about.chunks[0])))

            await stage(job, leaves)

    return watched
