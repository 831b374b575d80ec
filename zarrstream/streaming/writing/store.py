"""A run on its way out: encoded, stored, acknowledged. What happens to it in threads and on the loop."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from zarrstream.concurrency.key_lock import merging
from zarrstream.streaming.engine.job import Failure, Job
from zarrstream.streaming.engine.workers import Line
from zarrstream.streaming.transport.files import FileTransport
from zarrstream.streaming.transport.stores import LoopTransport, sync_port
from zarrstream.streaming.transport.turns import SMALL_BYTES, Turns
from zarrstream.streaming.writing.cuts import Cut
from zarrstream.streaming.writing.store_opaque import save_by_zarr

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable

    import numpy.typing as npt

    from zarrstream.concurrency.file_lock import FileLock
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.layout.shard import ShardLayout
    from zarrstream.streaming.transport.stores import SyncPort

    NDArray: TypeAlias = npt.NDArray[Any]

STORED: Final = "stored"
ELIDED: Final = "elided"  # the chunk equals the fill value: its key is deleted, as zarr does
UNWRITTEN: Final = "unwritten"  # nothing was done with it: it goes another time


class Saver:
    """Writes the runs of one stream. A job's load is its chunks' data, whole chunks each, in the order of its indices.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    observer : Observer
        Who watches.
    requests : int
        How many requests may be under way, where they are awaited.
    merges : bool
        Whether there may be parts of chunks among them.
    """

    def __init__(self, codec: ArrayCodec, observer: Observer, requests: int, *, merges: bool = False) -> None:
        port = sync_port(codec)
        self._codec = observer.encoder(codec)
        self._port: SyncPort | None = observer.port(port)
        self._awaited = observer.awaited(LoopTransport(codec.array.store, requests))
        self._files = port if isinstance(port, FileTransport) else None
        small = codec.grid.chunk_nbytes <= SMALL_BYTES and self._files is not None
        self._turns = Turns() if small else None
        self._merges = merges

    @property
    def synchronous(self) -> bool:
        """Whether everything happens in worker threads."""
        return self._port is not None

    def sweep(self) -> int:
        """Remove what killed writers left behind; returns how many files."""
        return 0 if self._files is None else self._files.sweep()

    def line(self, loop: asyncio.AbstractEventLoop) -> Line:
        """The stages of a job; ``loop`` is where an awaited store lives."""
        if self._codec.opaque:
            return Line(before=self._write_by_zarr, loop=loop)
        if self._port is not None:
            return Line(work=self._shard_work if self._codec.shard else self._work)
        if self._codec.shard:
            return Line(before=self._fetch_shard, work=self._encode_shard_of, after=self._send, loop=loop)
        return Line(before=self._fetch_chunk if self._merges else None, work=self._encode, after=self._send, loop=loop)

    # Single chunks: all of the run are encoded, then all are written, in one transaction where the store has such.

    def _work(self, job: Job) -> None:
        port: SyncPort | None = self._port
        assert port is not None
        if isinstance(job.load[0], Cut):
            self._merge(job, port)
            return
        encoded = self._encode_each(job)
        if job.halted:
            return
        keys = [self._codec.key(index) for index in job.indices[: len(encoded)]]
        together = [(key, [value]) for key, value in zip(keys, encoded, strict=True) if _is_bytes(value)]
        put_many = getattr(port, "put_many", None)
        rest: SyncPort = port
        if put_many is not None and len(together) > 1 and self._put_together(job, put_many, together):
            rest = _Rest(port)
        if self._turns is None or len(keys) == 1:
            self._store_each(job, rest, keys, encoded)
            return
        with self._turns.turn() as turn:
            start = time.monotonic()
            self._store_each(job, rest, keys, encoded)
            turn.took((time.monotonic() - start) / len(keys))

    def _encode_each(self, job: Job) -> list[Any]:
        """Encode the chunks of a run. Where one failure ends the stream, none behind the first that fails."""
        job.timing(0, len(job.load))
        if (together := self._at_once(job)) is not None:
            return together
        encoded: list[Any] = []
        for position, chunk in enumerate(job.load):
            if job.halted:
                break
            job.timing(position, position + 1)
            value = _tried(self._codec.encode, chunk)
            encoded.append(value)
            if type(value) is Failure and job.halt.fails_fast:
                break
        return encoded

    def _at_once(self, job: Job) -> list[Any] | None:
        try:
            return self._codec.encode_all(job.load)
        except Exception:  # noqa: BLE001  # encoded one by one, the chunk that is to blame is found and named
            return None

    def _store_each(self, job: Job, port: SyncPort, keys: list[str], encoded: list[Any]) -> None:
        results = job.results
        for position, (key, value) in enumerate(zip(keys, encoded, strict=True)):
            if job.halted:
                return
            job.timing(position, position + 1)
            done = value if type(value) is Failure else self._store(port, key, value)
            results.append(done)
            if type(done) is Failure:
                job.halt.failed(job)  # last: it stops this job, too, and what failed has to be among its results

    def _put_together(self, job: Job, put_many: Callable[[Any], None], together: list[tuple[str, list[Any]]]) -> bool:
        job.timing(0, len(job.indices))
        try:
            put_many(together)
        except Exception:  # noqa: BLE001  # written one by one, the chunk that is to blame is found and named
            return False
        return True

    def _store(self, port: SyncPort, key: str, value: Any) -> Any:
        if value is None:
            deleted = _tried(port.delete, key)
            return deleted if type(deleted) is Failure else ELIDED
        stored = _tried(port.put, key, value if isinstance(value, list) else [value])
        return stored if type(stored) is Failure else STORED

    def _merge(self, job: Job, port: SyncPort) -> None:
        """Write a part of a single chunk: what is stored is read under a lock, as a shard is."""
        [index], [cut] = job.indices, job.load
        job.timing(0, 1)
        key = self._lock(job, index)
        stored = port.get(key)
        value = _tried(lambda: self._codec.encode(self._merged(cut, stored)))
        if job.halted:
            return
        done = value if type(value) is Failure else self._store(port, key, value)
        job.results.append(done)
        if type(done) is Failure:
            job.halt.failed(job)

    async def _fetch_chunk(self, job: Job, began: Callable[[], None]) -> None:
        [index], [chunk] = job.indices, job.load
        if isinstance(chunk, Cut):
            key = await self._alock(job, index)
            job.load = [(chunk, await self._awaited.get(key, began=began))]

    def _merged(self, cut: Cut, stored: Any) -> NDArray:
        """Return a part of a single chunk on what is stored of it."""
        return cut.onto(self._codec.fill if stored is None else self._codec.decode(stored))

    def _encode(self, job: Job) -> None:
        [index], [chunk] = job.indices, job.load
        job.timing(0, 1, job.spent)
        value = self._codec.encode(self._merged(*chunk) if isinstance(chunk, tuple) else chunk)
        job.load = (self._codec.key(index), None if value is None else [value], [ELIDED if value is None else STORED])

    async def _send(self, job: Job, began: Callable[[], None]) -> None:
        key, pieces, results = job.load
        if pieces is None:
            await self._awaited.delete(key, began=began)
        else:
            await self._awaited.put(key, pieces, began=began)
        job.results.extend(results)

    # Shards: all chunks of one at once; those that are not given stay as they are stored. A shard is read, merged and
    # written under a lock of this process: another stream may have chunks for it, too.

    def _shard_work(self, job: Job) -> None:
        assert self._port is not None
        job.timing(0, len(job.indices))
        key = self._lock(job, self._codec.grid.object_of(job.indices[0]))
        stored = None if self._is_complete(job) else self._port.get(key)
        pieces, results = self._encode_shard(job, stored)
        if job.halted:
            return
        done = STORED if STORED not in results and ELIDED not in results else self._store(self._port, key, pieces)
        job.results.extend([done] * len(results) if type(done) is Failure else results)
        if any(type(result) is Failure for result in job.results):
            job.halt.failed(job)

    async def _fetch_shard(self, job: Job, began: Callable[[], None]) -> None:
        key = await self._alock(job, self._codec.grid.object_of(job.indices[0]))
        stored = None if self._is_complete(job) else await self._awaited.get(key, began=began)
        job.load = (job.load, stored)

    def _lock(self, job: Job, obj: Index) -> str:
        """Have a job be the only one that merges into a stored object; return the object's key.

        Of this process, and of all that share the folder where the array lies in one.
        """
        name = (self._codec.lock_name, key := self._codec.key(obj))
        merging.acquire(name)
        job.at_end = partial(merging.release, name)
        if self._files is not None:
            lock = self._files.lock(key)
            job.at_end = partial(_give_back, lock, name)
            self._files.acquire(lock)
        return key

    async def _alock(self, job: Job, obj: Index) -> str:
        name = (self._codec.lock_name, key := self._codec.key(obj))
        await merging.aacquire(name)
        job.at_end = partial(merging.release, name)
        return key

    def _encode_shard_of(self, job: Job) -> None:
        job.load, stored = job.load
        job.timing(0, len(job.indices), job.spent)
        pieces, results = self._encode_shard(job, stored)
        if STORED not in results and ELIDED not in results:
            job.results.extend(results)
            if any(type(result) is Failure for result in results):
                job.halt.failed(job)
            return
        job.load = (self._codec.key(self._codec.grid.object_of(job.indices[0])), pieces, results)

    def _encode_shard(self, job: Job, stored: Any) -> tuple[list[Any] | None, list[Any]]:
        """Return the shard's new bytes, and a result for each chunk.

        Where a chunk cannot be encoded, the one that is stored stays. If the stored shard was not read, since all of
        its chunks were given, nothing is written, and the others come again to be merged.
        """
        layout = self._codec.shard
        assert layout is not None
        parts = {} if stored is None else self._parts_of(layout, memoryview(stored).cast("B"))
        encoded: list[Any] | None = None
        if any(isinstance(chunk, Cut) for chunk in job.load):
            encoded = [
                _tried(self._encode_part, chunk, parts.get(local))
                for local, chunk in zip(layout.local(job.indices), job.load, strict=True)
            ]
        encoded = encoded or self._at_once(job) or [_tried(self._codec.encode_inner, chunk) for chunk in job.load]
        if any(type(value) is Failure for value in encoded) and (job.halt.fails_fast or self._is_complete(job)):
            return None, [value if type(value) is Failure else UNWRITTEN for value in encoded]
        results: list[Any] = []
        for local, value in zip(layout.local(job.indices), encoded, strict=True):
            if type(value) is Failure:
                results.append(value)
            elif value is None:
                parts.pop(local, None)
                results.append(ELIDED)
            else:
                parts[local] = value
                results.append(STORED)
        return layout.assemble(parts) if parts else None, results

    def _encode_part(self, chunk: NDArray | Cut, stored: Any) -> Any | None:
        if isinstance(chunk, Cut):
            chunk = chunk.onto(self._codec.fill if stored is None else self._codec.decode_inner(stored))
        return self._codec.encode_inner(chunk)

    def _parts_of(self, layout: ShardLayout, stored: memoryview) -> dict[Index, Any]:
        index = layout.index_of(stored)
        locals_ = list(np.ndindex(layout.per_shard))
        spans = layout.ranges(index, locals_)
        return {local: stored[span[0] : span[1]] for local, span in zip(locals_, spans, strict=True) if span}

    def _is_complete(self, job: Job) -> bool:
        """Whether all of a shard is given: at the array's edge never, since another handle may know more."""
        return len(job.indices) == self._codec.grid.per_object and not any(isinstance(chunk, Cut) for chunk in job.load)

    # Arrays that zarr itself has to write.

    async def _write_by_zarr(self, job: Job, began: Callable[[], None]) -> None:
        if self._codec.grid.shards is not None or isinstance(job.load[0], Cut):
            await self._alock(job, self._codec.grid.object_of(job.indices[0]))
        async with self._awaited.gate:
            began()
            elided = await save_by_zarr(self._codec, job)
        job.results.extend(ELIDED if gone else STORED for gone in elided)


class _Rest:
    """What is left to do after a transaction has stored the values: deleting the elided ones.

    Parameters
    ----------
    port : SyncPort
        Where values went.
    """

    def __init__(self, port: SyncPort) -> None:
        self.get, self.delete = port.get, port.delete

    def put(self, key: str, pieces: Any) -> None:
        """Store nothing: it is stored."""


def _give_back(lock: FileLock, name: Hashable) -> None:
    try:
        lock.release()
    finally:
        merging.release(name)


def _tried(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return a call's value, or its error as the chunk's result."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  # it belongs to the chunk, and goes to the consumer
        return Failure(error)


def _is_bytes(value: Any) -> bool:
    return value is not None and type(value) is not Failure
