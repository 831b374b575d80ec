"""Pieces on their way into runs: single chunks until a run is worth a worker, others until their shard is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.streaming.grid import RUN_BYTES, RUN_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.grid import Grid
    from zarrstream.streaming.items import Piece


class Gather:
    """What was pulled and is not yet sent.

    Parameters
    ----------
    grid : Grid
        The target's grid.
    singly : bool
        Whether every chunk is a run of its own: on stores that are awaited.
    max_bytes : int
        Decoded bytes that may be gathered and in flight.
    """

    def __init__(self, grid: Grid, *, singly: bool, max_bytes: int) -> None:
        self._grid, self._max_bytes = grid, max_bytes
        self._length = 1 if singly else max(1, min(RUN_CHUNKS, RUN_BYTES // max(1, grid.chunk_nbytes)))
        self._run: dict[Index, Piece] = {}
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
        return not self._run and not self._shards

    def holds(self, index: Index) -> bool:
        """Whether a piece for this chunk waits here to be sent with others."""
        return index in self._run

    def add(self, piece: Piece) -> None:
        """Take a piece in; of two for one chunk of a shard the last wins, and both are settled with it."""
        self.nbytes += self._grid.chunk_nbytes  # strings and objects by estimate, as in reading
        if self._grid.shards is None:
            self._run[piece.index] = piece
            return
        shard = piece.obj
        waiting = self._shards.setdefault(shard, {})
        earlier = waiting.get(piece.index)
        if earlier is not None:
            self.nbytes -= self._grid.chunk_nbytes
            piece.items = (*earlier.items, *piece.items)
        else:
            self._expect(shard)
        waiting[piece.index] = piece

    def leave_out(self, index: Index) -> None:
        """Note a chunk that will not come: its shard does not wait for it."""
        if self._grid.shards is not None:
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
        for shard in list(self._shards)[:1]:
            yield from self._take(shard)

    def rest(self) -> Iterator[list[Piece]]:
        """Yield everything."""
        yield from self.singles()
        for shard in list(self._shards):
            yield from self._take(shard)

    def _take(self, shard: Index) -> Iterator[list[Piece]]:
        self._coming.pop(shard, None)  # what comes for it later begins anew
        if pieces := self._shards.pop(shard, None):
            self.nbytes -= len(pieces) * self._grid.chunk_nbytes
            yield [pieces[index] for index in sorted(pieces)]

    def _expect(self, shard: Index) -> None:
        coming = self._coming.get(shard)
        if coming is None:
            coming = sum(1 for _ in self._grid.chunks_in(shard))
        self._coming[shard] = coming - 1
        if coming == 1:
            self._whole.append(shard)
