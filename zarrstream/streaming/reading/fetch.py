"""A run on its way in: fetched, decoded, clipped to the region. What happens to it in threads and on the loop."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from zarr import errors as zarr_errors

from zarrstream.concurrency.one_version import ReplacedError, one_version
from zarrstream.concurrency.tasks import together
from zarrstream.streaming.chunk import Chunk
from zarrstream.streaming.engine.job import Failure, Job
from zarrstream.streaming.engine.workers import Line
from zarrstream.streaming.layout.shard import GAP_BYTES, Shared, coalesce
from zarrstream.streaming.reading.decode import MISSING, Decoder
from zarrstream.streaming.reading.parts import Parts
from zarrstream.streaming.transport.stores import LoopTransport, SyncPort, looks_again, sync_port
from zarrstream.streaming.transport.turns import SMALL_BYTES, Turns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.layout.grid import Run
    from zarrstream.streaming.layout.shard import ShardLayout
    from zarrstream.streaming.reading.parts import Pieces, ShardIndex, VersionedIndex


_NotFound: type[Exception] = getattr(zarr_errors, "ChunkNotFoundError", LookupError)  # zarr has it from 3.3 on
_ATTEMPTS = 5  # at a shard that is written anew while its parts are read
_CHANGING = "the shard was written anew each time while its chunks were read: let its writer end, or read it later"
_INDEXES_BYTES = 16 << 20  # shard indexes kept for the runs of shards that are read piece by piece


class Loader:
    """Reads the runs of one stream.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    region : tuple of slice
        What is wanted of it; chunks are clipped to it.
    observer : Observer
        Who watches.
    requests : int
        How many requests may be under way, where they are awaited.
    cuts_shards : bool
        Whether the chunks of one shard are read in several runs: then none fetches what belongs to another.
    include_missing : bool
        Whether absent chunks come as fill values, or not at all.
    writable : bool
        Whether the data are copies that may be changed.
    """

    def __init__(
        self,
        codec: ArrayCodec,
        region: Region,
        observer: Observer,
        *,
        requests: int,
        cuts_shards: bool,
        include_missing: bool,
        writable: bool,
    ) -> None:
        self._codec, self._region = codec, region
        self._include_missing, self._writable = include_missing, writable
        decoder = Decoder(codec, region, include_missing=include_missing, writable=writable)
        self._decoder = observer.decoder(decoder)
        self._port: SyncPort | None = observer.port(sync_port(codec))
        self._looks_again = looks_again(codec.array.store)
        self._awaited = observer.awaited(LoopTransport(codec.array.store, requests))
        self._cuts_shards = cuts_shards
        self._gap = 0 if cuts_shards else GAP_BYTES
        self._turns = Turns() if codec.grid.chunk_nbytes <= SMALL_BYTES else None
        self._indexes = Shared(max(1, _INDEXES_BYTES // (16 * codec.grid.per_object)))

    @property
    def synchronous(self) -> bool:
        """Whether everything happens in worker threads."""
        return self._port is not None

    def line(self, loop: asyncio.AbstractEventLoop) -> Line:
        """The stages of a job; ``loop`` is where an awaited store lives."""
        if self._codec.opaque:
            return Line(before=self._read_by_zarr, loop=loop)
        if self._port is not None:
            return Line(work=self._shard_work if self._codec.shard else self._work)
        return Line(before=self._fetch_shard if self._codec.shard else self._fetch, work=self._decode_all, loop=loop)

    # Single chunks, in a thread. Small ones: first all files of the run, then all decoding. Two threads that alternate
    # between short calls with and without the interpreter lock wait for each other more than they work. Larger ones are
    # decoded as soon as they are read, while they are in the processor's cache.

    def _work(self, job: Job) -> None:
        port, indices = self._port, job.indices
        assert port is not None
        get_many = getattr(port, "get_many", None)
        if get_many is not None and len(indices) > 1 and self._work_together(job, get_many):
            return
        step = len(indices) if self._turns is not None else 1
        for first in range(0, len(indices), step):
            some = indices[first : first + step]
            raws, spent = self._in_turn(job, some, port.get)
            if job.halted:
                return
            self._decoder.decode(job, some, raws, self._codec.decode, spent)
            if job.halt.fails_fast and any(type(result) is Failure for result in job.results[first:]):
                return

    def _in_turn(self, job: Job, indices: list[Index], get: Callable[[str], Any]) -> tuple[list[Any], list[float]]:
        if self._turns is None or len(indices) == 1:
            return self._fetch_each(job, indices, get)
        with self._turns.turn() as turn:
            raws, spent = self._fetch_each(job, indices, get)
            turn.took(sum(spent) / len(indices))
        return raws, spent

    def _fetch_each(self, job: Job, indices: list[Index], get: Callable[[str], Any]) -> tuple[list[Any], list[float]]:
        """Fetch chunks one by one; fewer than were asked for, if the job is to stop."""
        raws: list[Any] = []
        spent: list[float] = []
        key_of, now = self._codec.key, time.monotonic
        for position, index in enumerate(indices, len(job.results)):
            if job.halted:
                break
            start = now()
            job.mark = (position, position + 1, start)
            try:
                raw = get(key_of(index))
                if raw is None:
                    self._refuse_missing(index)
                raws.append(raw)
            except Exception as error:  # noqa: BLE001  # it belongs to the chunk, and goes to the consumer
                raws.append(Failure(error))
                if job.halt.fails_fast:
                    break
            spent.append(now() - start)
        return raws, spent

    def _work_together(self, job: Job, get_many: Callable[[list[str]], list[Any]]) -> bool:
        """Fetch a run with one call; False where something in it has to be looked at chunk by chunk."""
        start = time.monotonic()
        job.timing(0, len(job.indices))
        try:
            raws = get_many([self._codec.key(index) for index in job.indices])
        except Exception:  # noqa: BLE001  # read one by one, the chunk that is to blame is found and named
            return False
        if not self._codec.read_missing and None in raws:
            return False
        self._decoder.decode(job, job.indices, raws, self._codec.decode, [time.monotonic() - start] * len(raws))
        return True

    async def _fetch(self, job: Job, began: Callable[[], None]) -> None:
        [index] = job.indices
        raw = await self._awaited.get(self._codec.key(self._codec.grid.object_of(index)), began=began)
        if raw is None:
            self._refuse_missing(index)
        job.load = (job.indices, [raw], self._codec.decode)

    # Shards: whole where most of one is wanted, else its index and the ranges of the wanted chunks.

    def _shard_work(self, job: Job) -> None:
        run: Run = job.load
        layout, port = self._codec.shard, self._port
        assert layout is not None
        assert port is not None
        key = self._codec.key(run.shard or ())
        start = time.monotonic()
        job.timing(0, len(run.indices))
        pieces: Pieces = {}
        if self._fetches_whole(layout, run):
            raw = port.get(key)
            index = None if raw is None else layout.index_of(memoryview(raw).cast("B"))
            pieces[(0, len(raw) if raw is not None else 0)] = raw
        else:
            index, pieces = self._read_parts(job, run, layout, key)
            if job.halted:
                return
        self._after_shard(job, run, index, pieces, time.monotonic() - start)

    async def _fetch_shard(self, job: Job, began: Callable[[], None]) -> None:
        run: Run = job.load
        layout = self._codec.shard
        assert layout is not None
        key = self._codec.key(run.shard or ())
        pieces: Pieces = {}
        if self._fetches_whole(layout, run):
            raw = await self._awaited.get(key, began=began)
            index = None if raw is None else layout.index_of(memoryview(raw).cast("B"))
            pieces[(0, len(raw) if raw is not None else 0)] = raw
        else:
            index, pieces = await self._fetch_parts(job, run, layout, key, began)
        if index is None:
            self._refuse_missing(run.indices[0])
        job.load = (run.indices, list(self._cut(layout, index, run, pieces)), self._codec.decode_inner)

    # A range is read from whatever object has the key then, and the index may be of the one before. Stores that can
    # tell the version of what they read are held to one. For those that cannot, one looks at the index afterwards once
    # more. With other people's stores, one that was read for this very run is believed: they are asked as zarr asks.

    def _read_parts(self, job: Job, run: Run, layout: ShardLayout, key: str) -> tuple[ShardIndex | None, Pieces]:
        port = self._port
        assert port is not None

        def read_index() -> VersionedIndex:
            with one_version() as asked:
                index = self._index(layout, port.get(key, *layout.index_range))
            return index, asked.version

        for attempt in range(_ATTEMPTS):
            found, fresh = self._indexes.get(run.shard, job, read_index)
            raws = []
            with suppress(ReplacedError), one_version(found[1]):
                for span in (spans := coalesce(self._spans(layout, found[0], run), self._gap)):
                    if job.halted:
                        return found[0], {}
                    raws.append(port.get(key, *span))
                parts = Parts(layout, found, spans, raws)
                fresh = fresh and not attempt and not self._looks_again
                if parts.believed(fresh=fresh) or parts.confirmed(read_index()):
                    return found[0], parts.pieces
            self._indexes.forget(run.shard)
        raise ValueError(_CHANGING)

    async def _fetch_parts(
        self, job: Job, run: Run, layout: ShardLayout, key: str, began: Callable[[], None]
    ) -> tuple[ShardIndex | None, Pieces]:
        async def read_index() -> VersionedIndex:
            with one_version() as asked:
                index = self._index(layout, await self._awaited.get(key, *layout.index_range, began=began))
            return index, asked.version

        for attempt in range(_ATTEMPTS):
            found, fresh = await self._indexes.aget(run.shard, job, began, read_index)
            spans = coalesce(self._spans(layout, found[0], run), self._gap)
            with suppress(ReplacedError):
                with one_version(found[1]):
                    raws = await together(self._awaited.get(key, *span, began=began) for span in spans)
                parts = Parts(layout, found, spans, raws)
                fresh = fresh and not attempt and not self._looks_again
                if parts.believed(fresh=fresh) or parts.confirmed(await read_index()):
                    return found[0], parts.pieces
            self._indexes.forget(run.shard)
        raise ValueError(_CHANGING)

    def _after_shard(self, job: Job, run: Run, index: ShardIndex | None, pieces: dict[Any, Any], spent: float) -> None:
        if index is None:
            self._refuse_missing(run.indices[0])
        assert self._codec.shard is not None
        raws = list(self._cut(self._codec.shard, index, run, pieces))
        self._decoder.decode(job, run.indices, raws, self._codec.decode_inner, [spent] * len(run.indices))

    def _fetches_whole(self, layout: ShardLayout, run: Run) -> bool:
        return not self._cuts_shards and layout.mostly(len(run.indices))

    def _index(self, layout: ShardLayout, raw: Any) -> ShardIndex | None:
        return None if raw is None else layout.index_of(memoryview(raw).cast("B"))

    def _spans(self, layout: ShardLayout, index: ShardIndex | None, run: Run) -> list[tuple[int, int] | None]:
        return [None] * len(run.indices) if index is None else layout.ranges(index, run.indices)

    def _cut(self, layout: ShardLayout, index: ShardIndex | None, run: Run, pieces: dict[Any, Any]) -> Iterator[Any]:
        """Cut the wanted chunks out of what was fetched."""
        views = [(start, stop, memoryview(raw).cast("B")) for (start, stop), raw in pieces.items() if raw is not None]
        for span in self._spans(layout, index, run):
            if span is None:
                yield None
                continue
            for start, stop, view in views:
                if start <= span[0] < stop:
                    yield view[span[0] - start : span[1] - start]
                    break
            else:
                yield Failure(ValueError(f"the shard's index points to bytes {span}, beyond its end: torn"))

    # Decoding, and what the consumer gets.

    def _decode_all(self, job: Job) -> None:
        indices, raws, decode = job.load
        job.load = None
        self._decoder.decode(job, indices, raws, decode, [job.spent] * len(indices))

    def _refuse_missing(self, index: Index) -> None:
        if self._include_missing and not self._codec.read_missing:
            key = self._codec.key(self._codec.grid.object_of(index))
            raise _NotFound(f"{key!r} is not in the store, and zarr's array.read_missing_chunks is off")

    # Arrays that zarr itself has to read.

    async def _read_by_zarr(self, job: Job, began: Callable[[], None]) -> None:
        grid = self._codec.grid
        regions = [grid.region_of(index, self._region) for index in job.indices]
        box = tuple(
            slice(min(part.start for part in parts), max(part.stop for part in parts))
            for parts in zip(*regions, strict=True)
        )
        async with self._awaited.gate:
            began()
            if not self._include_missing and not await self._codec.array.store.exists(
                self._codec.key(grid.object_of(job.indices[0]))
            ):
                job.results.extend([MISSING] * len(job.indices))
                return
            whole = await self._codec.read_by_zarr(box)
        for index, region in zip(job.indices, regions, strict=True):
            inside = tuple(
                slice(part.start - edge.start, part.stop - edge.start) for part, edge in zip(region, box, strict=True)
            )
            data = whole[inside] if inside else whole
            data = data.copy() if self._writable or len(job.indices) > 1 else data
            data.flags.writeable = self._writable
            job.results.append(Chunk(index, region, data))
