"""What carries and codes the chunks of a watched stream: each does what the plain one does, and says so."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream.streaming.codecs.array import ArrayCodec
from zarrstream.streaming.engine.job import Failure
from zarrstream.streaming.reading.decode import Decoder
from zarrstream.streaming.sightings import Request, current_job
from zarrstream.streaming.transport.stores import LoopTransport

Values = TypeVar("Values", list[Any], list[Any] | None)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.engine.job import Job
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
        return self._timed(lambda: self._codec.encode_all(run), failed=0)  # they are encoded again, one by one

    def _timed(self, work: Callable[[], Values], *, failed: int = 1) -> Values:
        job, since = current_job.get(), perf_counter_ns()
        try:
            values = work()
        except BaseException:
            job.encoded += failed
            raise
        if values is not None:
            share = (perf_counter_ns() - since) / len(values)
            for chunk, value in zip(job.chunks[job.encoded :], values, strict=False):
                chunk.begin, chunk.coded = chunk.begin or since, share
                chunk.stored = None if value is None else memoryview(value).nbytes
            job.encoded += len(values)
        return values
