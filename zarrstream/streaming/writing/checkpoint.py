"""`Checkpoint`: the set of chunks that are done, from which a killed `write_stream` resumes."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarrstream.concurrency.file_lock import FileLock
from zarrstream.errors import CheckpointLockedError, CheckpointMismatchError
from zarrstream.identity import flusher_of
from zarrstream.streaming.codecs.array import AnyArray, ArrayCodec, zarr_loop
from zarrstream.streaming.engine.faces import await_on, lives_here, refuse_own_loop, run_on
from zarrstream.streaming.layout.grid import Grid, odometer
from zarrstream.streaming.region import normalize_region
from zarrstream.streaming.transport.listing import stored_objects
from zarrstream.streaming.writing import binding
from zarrstream.streaming.writing.flush import Publication
from zarrstream.streaming.writing.record import Log, Parts, Record, State, read_log
from zarrstream.streaming.writing.record_parts import PART, counts_of, moved, told_apart
from zarrstream.streaming.writing.record_writer import Tail, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.layout.bitmap import Presence


class Checkpoint:
    """The chunks of one array that are done, kept in a file.

    Parameters
    ----------
    path : str or os.PathLike
        The file; it is made by the first writer.
    token : object, optional
        Whatever else the data depend on (a version of the source, its parameters), compared by value: what JSON can
        write, numpy arrays, bytes, paths, dates, numbers and enumerations, in lists and dictionaries. Another token
        is another checkpoint.
    place : str, optional
        A name for the store, where zarrstream cannot know which it is (a session of icechunk, a store of your own):
        the same for the same data in every process, and another for others.

    Notes
    -----
    Bound to the store's place (endpoint included), the array's path, chunk and shard grid, data type, fill value,
    codecs, and the token. It follows an array that is resized: what is new is pending, and so is a last chunk that
    reaches further than before, but for the part that it had. A chunk enters after the store acknowledged it; a chunk
    of a shard, once the shard is stored. A chunk of which only parts were written stays pending, and these parts are
    not written again. A chunk that a filter leaves out stays pending.

    On opening, one listing of the array's keys is compared with the record: a chunk that is recorded as stored and is
    not there is pending again. A damaged line is refused.

    Threads and processes: one writer at a time holds it, by a lock in a file beside it (not on Windows). Durability:
    what the operating system was handed survives the death of the process; it is not synced to the disk chunk by
    chunk, so that after a power loss the last records may be missing, and these chunks are written again.

    Examples
    --------
    >>> import tempfile, zarr
    >>> folder = tempfile.mkdtemp()
    >>> array = zarr.create_array(f"{folder}/a", shape=(6,), chunks=(3,), dtype="i4")
    >>> list(Checkpoint(f"{folder}/a.checkpoint").pending(array))
    [(0,), (1,)]
    """

    def __init__(self, path: str | os.PathLike[str], *, token: Any = None, place: str | None = None) -> None:
        if place is not None and not str(place):
            raise ValueError("place is a name of the store, and not empty")
        try:
            self._path = os.fsdecode(path)
        except TypeError:
            raise TypeError(f"a checkpoint is a file of this machine, named by its path, and not {path!r}") from None
        self._file = Path(self._path)
        binding.token_value(token)  # refused here, and not hours later
        self._token, self._place = token, place
        self._seen: tuple[object, tuple[int, int]] | None = None

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    def __repr__(self) -> str:
        options = "" if self._token is None else f", token={self._token!r}"
        options += "" if self._place is None else f", place={self._place!r}"
        try:
            done, total = self._counted()
        except (CheckpointMismatchError, OSError):  # a repr raises nothing: whoever opens it is told
            return f"<Checkpoint({self._path!r}{options}), which cannot be read>"
        begun = f"{done} of {total} chunks done" if total else "not begun"
        return f"<Checkpoint({self._path!r}{options}), {begun}>"

    def __len__(self) -> int:
        return self.done

    def __bool__(self) -> bool:
        return True

    @property
    def done(self) -> int:
        """The number of chunks that the file records as done; the store is not asked."""
        return self._counted()[0]

    @property
    def total(self) -> int:
        """The number of chunks of the array when it was last written to; 0 before the first time."""
        return self._counted()[1]

    def pending(self, array: AnyArray, *, region: object = None) -> Pending:
        """Return an iterator over the chunks that are not done, in C order (shard by shard), as of the first step.

        Parameters
        ----------
        array : zarr.Array or zarr.AsyncArray
            The array that is to be written.
        region : slice, tuple of slice or mapping, optional
            Only the chunks that cover this part of it; as in `zarrstream.stream_chunks`.

        Returns
        -------
        Pending
            Of coordinates in the array's chunk grid; `zarrstream.chunk_region` says where they lie. Its ``len()`` is
            how many are still to come.

        Raises
        ------
        CheckpointMismatchError
            If the checkpoint belongs to something else, is damaged, or the store has no place; at the first step.
        """
        codec = ArrayCodec(array)
        wanted = normalize_region(region, codec.grid.shape, codec.dimension_names)

        def begin() -> tuple[Record, Grid, Region]:
            loop = zarr_loop()
            refuse_own_loop(loop)
            try:
                present = run_on(loop, stored_objects(codec))
            except RuntimeError as error:
                if lives_here(array):
                    error.add_note("the array may belong to another event loop: use apending(array) there")
                raise
            return self.read(codec, present), codec.grid, wanted

        return Pending(begin)

    async def apending(self, array: AnyArray, *, region: object = None) -> AsyncIterator[Index]:
        """Yield the same as `pending`, awaited: the array's store is asked on its own loop, and the file in a thread.

        Parameters
        ----------
        array, region
            As for `pending`.
        """
        codec = ArrayCodec(array)
        wanted = normalize_region(region, codec.grid.shape, codec.dimension_names)
        loop: asyncio.AbstractEventLoop = asyncio.get_running_loop() if lives_here(array) else zarr_loop()
        present = await await_on(loop, stored_objects(codec))
        record = await asyncio.to_thread(self.read, codec, present)
        for index in Pending(lambda: (record, codec.grid, wanted)):
            yield index

    def read(self, codec: ArrayCodec, present: Presence | None) -> Record:
        """Read the record of an array and reconcile it with what is in the store; takes no lock."""
        bound = binding.binding_of(codec, self._token, self._place)
        log = read_log(self._file.read_bytes(), self._path) if self._file.exists() else None
        state, parts = self._state(log, codec, bound)
        return Record(codec.grid, state, present, parts)

    def open(self, codec: ArrayCodec, present: Presence | None) -> Writer:
        """Take the lock, read and reconcile the record, and return what appends to it.

        Raises
        ------
        CheckpointLockedError
            If another writer holds it.
        CheckpointMismatchError
            If the checkpoint belongs to something else, is damaged, or the store has no place.
        """
        bound = binding.binding_of(codec, self._token, self._place)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{os.path.realpath(self._path)}.lock", remove=True)
        if not lock.acquire(wait=False):
            raise CheckpointLockedError(f"{self._path!r} is in use by {lock.holder()}: wait for it, or stop it")
        descriptor = -1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            log = read_log(self._file.read_bytes(), self._path)
            state, parts = self._state(log, codec, bound)
            if log is None:
                tail = Tail(self._path, descriptor, 0, 0)
                tail.begin(json.dumps(bound).encode() + b"\n")
            else:
                tail = Tail(self._path, descriptor, log.end, log.checksum)
                if log.shape != codec.grid.shape:
                    tail.append([("n", json.dumps(list(codec.grid.shape)))])
            record = Record(codec.grid, state, present, parts)
            return Writer(tail, lock, record, Publication(flusher_of(codec.array.store)))
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            lock.release()
            raise

    def _state(self, log: Log | None, codec: ArrayCodec, bound: dict[str, Any]) -> tuple[State | None, Parts]:
        if log is None:
            return None, {}
        binding.check(log.header, bound, codec, self._token, self._path)
        log.state[list(log.parts)] = PART
        return told_apart(*moved(log.state, log.parts, log.shape, codec.grid.shape, log.chunks))

    def _counted(self) -> tuple[int, int]:
        """Return how many chunks are done, of how many; the file is read again where it has changed."""
        try:
            there = self._file.stat()
        except FileNotFoundError:
            return 0, 0
        version = (there.st_ino, there.st_size, there.st_mtime_ns)
        if self._seen is None or self._seen[0] != version:
            log = read_log(self._file.read_bytes(), self._path)
            counts = (0, 0) if log is None else (int((log.state != 0).sum()), len(log.state))
            self._seen = version, counts
        return self._seen[1]


class Pending:
    """An iterator over the chunks that are not done, which knows how many are still to come.

    Parameters
    ----------
    begin : callable
        Returns the record, the array's grid and the region, at the first step.
    """

    def __init__(self, begin: Callable[[], tuple[Record, Grid, Region]]) -> None:
        self._begin = begin
        self._items: Iterator[Index] | None = None
        self._left = 0

    def __iter__(self) -> Pending:
        return self

    def __next__(self) -> Index:
        items = self._started()
        index = next(items)
        self._left -= 1
        return index

    def __len__(self) -> int:
        self._started()
        return self._left

    def _started(self) -> Iterator[Index]:
        if self._items is None:
            record, grid, region = self._begin()
            ranges = grid.covering(region)
            part = tuple(slice(*bounds) for bounds in ranges)
            self._left = int((~record.done.flags()[part]).sum())
            self._items = _missing(record, grid, region, ranges)
        return self._items


def _missing(record: Record, grid: Grid, region: Region, ranges: list[tuple[int, int]]) -> Iterator[Index]:
    counts = counts_of(grid.shape, grid.chunks)
    if grid.shards is not None or not ranges:
        yield from (index for index in grid.indices(region) if index not in record)
        return
    *outer, (first, stop) = ranges
    if stop <= first:
        return
    for head in odometer(outer):
        start = grid.ordinal((*head, 0), counts)
        for at in record.done.missing(start + first, start + stop):
            yield (*head, at - start)
