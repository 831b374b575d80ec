"""`Checkpoint`: the set of chunks that are done, from which a killed `write_stream` resumes.

The file is append-only text. Its first line is a JSON object that binds it to one array at one place. Every other
line is a letter, ``s`` for stored or ``e`` for elided, and ranges of chunk ordinals in C order: ``s 0-31 40``. A line
counts only with its newline: what a kill has torn off is cut away by the next writer.
"""

from __future__ import annotations

import json
import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from zarrstream.errors import CheckpointLockedError, CheckpointMismatchError
from zarrstream.identity import flusher_of, identity_of, legacy_place
from zarrstream.streaming.codec import AnyArray, ArrayCodec, zarr_loop
from zarrstream.streaming.faces import refuse_own_loop, run_on
from zarrstream.streaming.listing import stored_objects
from zarrstream.streaming.presence import Presence
from zarrstream.streaming.publication import Publication

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zarr.abc.store import Store

    from zarrstream.streaming.chunk import Index

try:
    import fcntl
except ImportError:  # Windows: writers are not kept apart there
    fcntl = None  # type: ignore[assignment]

_FORMAT = 1
_MAGIC = b'{"zarrstream-checkpoint":'  # how the first line begins, so that a torn one is known for ours


class Checkpoint:
    """The chunks of one array that are done, kept in a file.

    Parameters
    ----------
    path : str or os.PathLike
        The file; it is made by the first writer.
    token : object, optional
        Whatever else the data depend on (a version of the source, its parameters); anything that JSON can write.
        Another token is another checkpoint.

    Notes
    -----
    Bound to the store's place (endpoint included), the array's path, shape, chunk and shard grid, data type, fill
    value, codecs, and the token. A chunk enters after the store acknowledged it; a chunk of a shard, once the shard is
    stored.

    On opening, one listing of the array's keys is compared with the record: a chunk that is recorded as stored and is
    not there is pending again.

    Threads and processes: one writer at a time holds it, by a lock on the file (not on Windows). Durability: what the
    operating system was handed survives the death of the process; it is not synced to the disk chunk by chunk, so
    that after a power loss the last records may be missing, and these chunks are written again.

    Examples
    --------
    >>> import tempfile, zarr
    >>> folder = tempfile.mkdtemp()
    >>> array = zarr.create_array(f"{folder}/a", shape=(6,), chunks=(3,), dtype="i4")
    >>> list(Checkpoint(f"{folder}/a.checkpoint").pending(array))
    [(0,), (1,)]
    """

    def __init__(self, path: str | os.PathLike[str], *, token: Any = None) -> None:
        self._path = os.fspath(path)
        self._file = Path(self._path)
        self._token = token

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    def __repr__(self) -> str:
        token = "" if self._token is None else f", token={self._token!r}"
        return f"Checkpoint({self._path!r}{token})"

    def pending(self, array: AnyArray) -> Iterator[Index]:
        """Yield the chunks that are not done, in C order (shard by shard), as of the first step.

        Parameters
        ----------
        array : zarr.Array or zarr.AsyncArray
            The array that is to be written.

        Yields
        ------
        tuple of int
            Coordinates in the array's chunk grid; `zarrstream.chunk_region` says where they lie.

        Raises
        ------
        CheckpointMismatchError
            If the checkpoint belongs to something else, or the store has no place.
        """
        codec = ArrayCodec(array)
        loop = zarr_loop()
        refuse_own_loop(loop)
        record = self.read(codec, run_on(loop, stored_objects(codec)))
        for index in codec.grid.indices(codec.grid.whole()):
            if index not in record:
                yield index

    def read(self, codec: ArrayCodec, present: Presence | None) -> Record:
        """Read the record of an array and reconcile it with what is in the store; takes no lock."""
        record = Record(codec, self._binding(codec))
        if self._file.exists():
            with self._file.open("rb") as file:
                record.load(file, self._path)
        record.reconcile(present)
        return record

    def open(self, codec: ArrayCodec, present: Presence | None) -> Writer:
        """Take the lock, read and reconcile the record, and return what appends to it.

        Raises
        ------
        CheckpointLockedError
            If another writer holds it.
        CheckpointMismatchError
            If the checkpoint belongs to something else, or the store has no place.
        """
        binding = self._binding(codec)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        file = self._file.open("a+b")  # it stays open, and locked, as long as the writer
        try:
            _lock(file, self._path)
            record = Record(codec, binding)
            end = record.load(file, self._path)
            file.truncate(end)
            if not end:
                file.write(json.dumps(binding).encode() + b"\n")
                file.flush()
            record.reconcile(present)
        except BaseException:
            file.close()
            raise
        return Writer(file, record, Publication(flusher_of(codec.array.store)))

    def _binding(self, codec: ArrayCodec) -> dict[str, Any]:
        document = codec.describe()
        return {
            "zarrstream-checkpoint": _FORMAT,
            "place": _place_of(codec.array.store),
            "path": codec.array.store_path.path,
            **document,
            "token": json.loads(json.dumps(self._token, default=repr)),
        }


class Record:
    """Which chunks are done, two bits each.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    binding : dict
        What the file has to be bound to.
    """

    def __init__(self, codec: ArrayCodec, binding: dict[str, Any]) -> None:
        self._codec, self._binding = codec, binding
        self._counts = codec.grid.counts
        self._stored, self._elided = Presence(self._counts), Presence(self._counts)
        self._present: Presence | None = None
        self.lost = 0

    def __contains__(self, index: Index) -> bool:
        return index in self._stored or index in self._elided

    def __len__(self) -> int:
        return len(self._stored) + len(self._elided)

    def was_present(self, index: Index) -> bool:
        """Whether the store held the chunk when the record was read, though the record did not say so.

        Of a shard this is known where none of its chunks was recorded: it was stored, and then the writer was killed.
        """
        grid = self._codec.grid
        if self._present is None or grid.object_of(index) not in self._present:
            return False
        return grid.shards is None or not any(chunk in self for chunk in grid.chunks_in(grid.object_of(index)))

    def load(self, file: IO[bytes], path: str) -> int:
        """Take in a file; returns where its last whole line ends.

        Raises
        ------
        CheckpointMismatchError
            If the file is bound to something else, or is no checkpoint.
        """
        file.seek(0)
        header = file.readline()
        if not header.endswith(b"\n"):
            if not (header.startswith(_MAGIC) or _MAGIC.startswith(header)):
                raise CheckpointMismatchError(f"{path!r} is not a checkpoint: choose another path, or remove the file")
            return 0
        self._check(header, path)
        end = len(header)
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._take(line.decode())
            end += len(line)
        return end

    def reconcile(self, present: Presence | None) -> None:
        """Compare with a listing: what is not in the store is pending again, and what should not be there as well."""
        self._present = present
        if present is None:
            return
        grid = self._codec.grid
        for ordinal in self._stored.positions():
            index = tuple(map(int, np.unravel_index(ordinal, self._counts)))
            if grid.object_of(index) not in present:
                self._stored.discard(index)
                self.lost += 1
        if grid.shards is None:
            for ordinal in self._elided.positions():
                index = tuple(map(int, np.unravel_index(ordinal, self._counts)))
                if index in present:
                    self._elided.discard(index)
                    self.lost += 1

    def mark(self, kind: str, first: int, last: int) -> None:
        """Mark the chunks at ordinals ``first`` to ``last``, both included."""
        into, out_of = (self._stored, self._elided) if kind == "s" else (self._elided, self._stored)
        into.assign(first, last + 1, present=True)
        out_of.assign(first, last + 1, present=False)

    def ordinal(self, index: Index) -> int:
        """A chunk's position in C order."""
        return self._codec.grid.ordinal(index, self._counts)

    def _take(self, line: str) -> None:
        kind, *spans = line.split()
        for span in spans:
            first, _, last = span.partition("-")
            self.mark(kind, int(first), int(last or first))

    def _check(self, header: bytes, path: str) -> None:
        try:
            found = json.loads(header)
        except ValueError:
            found = None
        if not isinstance(found, dict) or "zarrstream-checkpoint" not in found:
            raise CheckpointMismatchError(f"{path!r} is not a checkpoint: choose another path, or remove the file")
        wanted = json.loads(json.dumps(self._binding))
        differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if differing:
            name = differing[0]
            raise CheckpointMismatchError(
                f"{path!r} belongs to something else: {', '.join(differing)} differ ({name} was {found.get(name)!r} "
                f"and is {wanted.get(name)!r}). Use another checkpoint, or remove this one to write every chunk anew"
            )


class Writer:
    """Appends to a checkpoint; made by `Checkpoint.open`, which took the lock.

    Parameters
    ----------
    file : file object
        The locked file, at its end.
    record : Record
        What was done when it was opened.
    publication : Publication
        Makes the store's writes durable; run before any is recorded.
    """

    def __init__(self, file: IO[bytes], record: Record, publication: Publication) -> None:
        self._file, self.done, self._publication = file, record, publication
        self._waiting: list[tuple[str, Index]] = []
        self._turn = threading.Lock()  # an awaited flush that was cancelled goes on in its thread, and `close` waits

    @property
    def is_due(self) -> bool:
        """Whether it is time for a `flush`, which `add` leaves to the caller where the store has to publish."""
        return self._publication.is_needed and self._publication.is_due(len(self._waiting))

    def add(self, kind: str, indices: Iterable[Index]) -> None:
        """Record chunks that the store has acknowledged, as ``"stored"`` or ``"elided"``."""
        self._waiting.extend((kind[0], index) for index in indices)
        if not self._publication.is_needed:
            self.flush()

    def flush(self) -> None:
        """Write what was added, after the store has published it."""
        with self._turn:
            acknowledged = self._waiting[:]
            if not acknowledged:
                return
            self._publication.run()
            del self._waiting[: len(acknowledged)]
            self._write({index: kind for kind, index in acknowledged})

    def _write(self, latest: dict[Index, str]) -> None:
        for kind in ("s", "e"):
            ordinals = sorted(self.done.ordinal(index) for index, what in latest.items() if what == kind)
            if ordinals:
                self._file.write(f"{kind} {' '.join(_spans(ordinals))}\n".encode())
        self._file.flush()

    def close(self) -> None:
        """Write what is left and give the lock back."""
        try:
            self.flush()
        finally:
            self._file.close()


def _spans(ordinals: list[int]) -> Iterator[str]:
    start = ordinals[0]
    for before, after in pairwise([*ordinals, -1]):
        if after != before + 1:
            yield str(start) if start == before else f"{start}-{before}"
            start = after


def _lock(file: IO[bytes], path: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CheckpointLockedError(f"{path!r} is in use by another writer: wait for it, or stop it") from error


def _place_of(store: Store) -> str:
    place = legacy_place(store) or identity_of(store)
    if place is None:
        raise CheckpointMismatchError(
            f"{store!r} has no place that another process could open again, so a checkpoint of it could not be believed"
            ": write without a checkpoint, or into a store with a path or URL"
        )
    return str(place)
