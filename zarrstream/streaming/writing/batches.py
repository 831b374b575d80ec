"""Pieces on their way into runs: single chunks until a run is worth a worker, others until their shard is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from zarrstream.streaming.layout.grid import RUN_BYTES, RUN_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.writing.cuts import Piece
    from zarrstream.streaming.writing.frontier import Item

    NDArray: TypeAlias = npt.NDArray[Any]


class Gather:
    """What was pulled and is not yet sent.

    Parameters
    ----------
    codec : ArrayCodec
        The target.
    singly : bool
        Whether every chunk is a run of its own: on stores that are awaited.
    max_bytes : int
        Decoded bytes that may be gathered and in flight.
    """

    def __init__(self, codec: ArrayCodec, *, singly: bool, max_bytes: int) -> None:
        grid = codec.grid
        self._codec, self._grid, self._max_bytes = codec, grid, max_bytes
        self._length = 1 if singly else max(1, min(RUN_CHUNKS, RUN_BYTES // max(1, grid.chunk_nbytes)))
        self._run: dict[Index, Piece] = {}
        self._parts: dict[Index, Piece] = {}  # of single chunks that have not come whole yet
        self._shards: dict[Index, dict[Index, Piece]] = {}
        self._coming: dict[Index, int] = {}
        self._whole: list[Index] = []  # shards all of whose chunks have come, or will not come
        self.nbytes = 0

    def has_room(self, in_flight: int) -> bool:
        """Whether one more chunk may be pulled; one always may."""
        held = self.nbytes + in_flight
        return not held or held + self._grid.chunk_nbytes <= self._max_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here."""
        return not self._run and not self._parts and not self._shards

    def holds(self, index: Index) -> bool:
        """Whether a piece for this chunk waits here to be sent with others."""
        return index in self._run

    def add(self, piece: Piece) -> None:
        """Take a piece in; of two whole ones for one chunk of a shard the last wins, and both are settled with it."""
        if self._grid.shards is None and not self._parts and piece.given is None:
            self.nbytes += self._grid.chunk_nbytes
            self._run[piece.index] = piece
            return
        self.nbytes += piece.held(self._grid.chunk_nbytes)  # strings and objects by estimate, as in reading
        waiting = self._parts if self._grid.shards is None else self._shards.setdefault(piece.obj, {})
        if (earlier := waiting.pop(piece.index, None)) is not None:
            self.nbytes -= earlier.held(self._grid.chunk_nbytes)
            piece.replaces(earlier)
        if self._grid.shards is None and piece.is_whole:
            waiting = self._run
        waiting[piece.index] = piece
        if self._grid.shards is not None and piece.is_whole and (earlier is None or not earlier.is_whole):
            self._expect(piece.obj)

    def extend(self, index: Index, where: Region, values: NDArray, item: Item) -> bool:
        """Take a part of a chunk into the piece that waits here for that chunk; False where there is none."""
        shard = self._grid.object_of(index)
        piece = (self._parts if self._grid.shards is None else self._shards.get(shard, {})).get(index)
        if piece is None:
            return False
        held, was_whole = piece.held(self._grid.chunk_nbytes), piece.is_whole
        piece.take(self._codec, where, values, item)
        self.nbytes += piece.held(self._grid.chunk_nbytes) - held
        if piece.is_whole and not was_whole:
            if self._grid.shards is None:
                self._run[index] = self._parts.pop(index)
            else:
                self._expect(shard)
        return True

    def leave_out(self, index: Index, where: Region | None) -> None:
        """Note a chunk, or the ``where`` of it, that will not come: its shard waits no longer than for its last part.

        Where parts come in another order the shard goes earlier, and is merged.
        """
        if self._grid.shards is not None and (
            where is None
            or all(p.stop == o.stop - o.start for p, o in zip(where, self._grid.region_of(index), strict=True))
        ):
            self._expect(self._grid.object_of(index))

    def ready(self, *, hungry: bool) -> Iterator[list[Piece]]:
        """Yield the runs that are full, or worth sending to a worker with nothing to do."""
        if len(self._run) >= self._length or (hungry and self._run):
            yield from self.singles()
        whole, self._whole = self._whole, []
        for shard in whole:
            yield from self._take(shard)

    def singles(self) -> Iterator[list[Piece]]:
        """Yield the run that is being gathered."""
        if self._run:
            run, self._run = list(self._run.values()), {}
            self.nbytes -= len(run) * self._grid.chunk_nbytes
            for first in range(0, len(run), self._length):
                yield run[first : first + self._length]

    def oldest(self) -> Iterator[list[Piece]]:
        """Yield what has waited longest, to make room: an incomplete shard is merged with what is stored."""
        yield from self.singles()
        for index in list(self._parts)[:1]:
            yield from self._merge(index)
        for shard in list(self._shards)[:1]:
            yield from self._take(shard)

    def rest(self) -> Iterator[list[Piece]]:
        """Yield everything."""
        yield from self.singles()
        for index in list(self._parts):
            yield from self._merge(index)
        for shard in list(self._shards):
            yield from self._take(shard)

    def _merge(self, index: Index) -> Iterator[list[Piece]]:
        piece = self._parts.pop(index)
        self._sent([piece])
        yield [piece]

    def _sent(self, pieces: Iterable[Piece]) -> None:
        self.nbytes -= sum(piece.held(self._grid.chunk_nbytes) for piece in pieces)

    def _take(self, shard: Index) -> Iterator[list[Piece]]:
        self._coming.pop(shard, None)  # what comes for it later begins anew
        if pieces := self._shards.pop(shard, None):
            self._sent(pieces.values())
            yield [pieces[index] for index in sorted(pieces)]

    def _expect(self, shard: Index) -> None:
        coming = self._coming.get(shard)
        if coming is None:
            coming = sum(1 for _ in self._grid.chunks_in(shard))
        self._coming[shard] = coming - 1
        if coming == 1:
            self._whole.append(shard)
