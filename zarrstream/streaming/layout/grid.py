"""Which chunks cover a region, in which order, in which runs. Pure arithmetic, lazy: no chunk list is ever made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

from zarrstream.streaming.engine.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.layout.bitmap import Presence

RUN_BYTES = 1 << 20  # one future or hand-over per small chunk costs more than the chunk: see docs/benchmarks.md
RUN_CHUNKS = 32
_ESTIMATE = 64  # bytes for one string or object: what a short str costs in CPython


@dataclass(frozen=True)
class Run:
    """Adjacent chunks that one worker takes in one go; of a sharded array, all in one shard.

    Parameters
    ----------
    indices : list of tuple of int
        The chunks, in C order.
    shard : tuple of int or None
        The shard that holds them all, or None where each chunk is an object of its own.
    nbytes : int
        What they occupy when decoded (estimated for strings and objects).
    """

    indices: list[Index]
    shard: Index | None
    nbytes: int


@dataclass(frozen=True)
class Grid:
    """An array's chunk grid, and the grid of stored objects: the shards, where it has them, or else the chunks.

    Parameters
    ----------
    shape, chunks : tuple of int
        The array's shape and the chunk shape, in elements.
    shards : tuple of int or None
        The shard shape in elements.
    itemsize : int
        Bytes for one element (an estimate for strings and objects).
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    itemsize: int

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of chunks along each axis."""
        return tuple(-(-size // step) if step else 0 for size, step in zip(self.shape, self.chunks, strict=True))

    @property
    def objects(self) -> tuple[int, ...]:
        """The number of stored objects along each axis."""
        steps = self.shards or self.chunks
        return tuple(-(-size // step) if step else 0 for size, step in zip(self.shape, steps, strict=True))

    @cached_property
    def per_shard(self) -> tuple[int, ...]:
        """Chunks along each axis of one stored object."""
        if self.shards is None:
            return (1,) * len(self.shape)
        return tuple(shard // chunk for shard, chunk in zip(self.shards, self.chunks, strict=True))

    @cached_property
    def chunk_nbytes(self) -> int:
        """Bytes of one whole chunk, decoded."""
        return math.prod(self.chunks) * self.itemsize

    @cached_property
    def per_object(self) -> int:
        """Chunks of one stored object."""
        return math.prod(self.per_shard)

    @cached_property
    def object_nbytes(self) -> int:
        """Bytes of one whole stored object, decoded."""
        return self.per_object * self.chunk_nbytes

    def whole(self) -> Region:
        """The region of the whole array."""
        return tuple(slice(0, size) for size in self.shape)

    def covering(self, region: Region) -> list[tuple[int, int]]:
        """The half-open ranges of chunk coordinates that cover a region; empty ranges where the region is empty."""
        return [
            (part.start // step, -(-part.stop // step)) if part.stop > part.start else (0, 0)
            for part, step in zip(region, self.chunks, strict=True)
        ]

    def count(self, region: Region) -> int:
        """The number of chunks that cover a region."""
        return math.prod(stop - start for start, stop in self.covering(region))

    def region_of(self, index: Index, within: Region | None = None) -> Region:
        """Where a chunk lies, clipped at the array's edge and to ``within``."""
        if within is None:
            return tuple(
                slice(at * step, min(at * step + step, size))
                for at, step, size in zip(index, self.chunks, self.shape, strict=True)
            )
        return tuple(
            slice(max(at * step, part.start), min(at * step + step, part.stop))
            for at, step, part in zip(index, self.chunks, within, strict=True)
        )

    def object_of(self, index: Index) -> Index:
        """The stored object (shard, or the chunk itself) that holds a chunk."""
        if self.shards is None:
            return index
        return tuple(at // per for at, per in zip(index, self.per_shard, strict=True))

    def chunks_in(self, obj: Index) -> Iterator[Index]:
        """Yield the chunks of one stored object that lie in the array, in C order."""
        starts = [at * per for at, per in zip(obj, self.per_shard, strict=True)]
        stops = [min(start + per, count) for start, per, count in zip(starts, self.per_shard, self.counts, strict=True)]
        return odometer(list(zip(starts, stops, strict=True)))

    def ordinal(self, index: Index, counts: tuple[int, ...]) -> int:
        """A chunk's position in C order among ``counts``."""
        position = 0
        for at, count in zip(index, counts, strict=True):
            position = position * count + at
        return position

    def indices(self, region: Region) -> Iterator[Index]:
        """Yield the chunks that cover a region: C order, for a sharded array shard by shard and C order within."""
        ranges = self.covering(region)
        if self.shards is None:
            yield from odometer(ranges)
            return
        for _, inner in self._by_shard(ranges):
            yield from odometer(inner)

    def runs(
        self,
        region: Region,
        *,
        workers: int,
        most: int = RUN_CHUNKS,
        max_bytes: int,
        wanted: Callable[[Index], Any] | None = None,
        present: Presence | None = None,
    ) -> Iterator[Run | None]:
        """Plan a region's runs, lazily and in order; None where it has looked for long, and will go on.

        Parameters
        ----------
        region : tuple of slice
            What to cover.
        workers : int
            How many runs may be under way: short streams are cut so that each has something to do.
        most : int
            The longest run of single chunks.
        max_bytes : int
            No run decodes to more (unless one chunk does); a shard that does is cut in several runs.
        wanted : callable, optional
            Asked for each chunk in order; falsy leaves it out.
        present : Presence, optional
            The stored objects; others are left out.
        """
        nbytes = max(1, self.chunk_nbytes)
        share = self.count(region) // (4 * workers)
        length = max(1, min(most, RUN_BYTES // nbytes, max_bytes // (2 * workers * nbytes), share))
        ranges = self.covering(region)
        if self.shards is None:
            lengths = _ramp(length, workers)
            if wanted is None and present is None:
                yield from self._cut(odometer(ranges), lengths, None)
                return
            indices = odometer(ranges) if present is None else present.within(ranges)
            yield from self._batches(_kept(indices, wanted, Pace()), lengths, None)
            return
        longest, pace = max(1, max_bytes // nbytes), Pace()
        for shard, inner in self._by_shard(ranges, present):
            if shard is None:
                yield None
                continue
            if wanted is None:
                yield from self._cut(odometer(inner), repeat(longest), shard)
                continue
            yield from self._batches(_kept(odometer(inner), wanted, pace), repeat(longest), shard)

    def _cut(self, indices: Iterator[Index], lengths: Iterator[int], shard: Index | None) -> Iterator[Run]:
        while batch := list(islice(indices, next(lengths))):
            yield Run(batch, shard, len(batch) * self.chunk_nbytes)

    def _batches(
        self, indices: Iterator[Index | None], lengths: Iterator[int], shard: Index | None
    ) -> Iterator[Run | None]:
        batch: list[Index] = []
        length = next(lengths)
        for index in indices:
            if index is not None:
                batch.append(index)
            elif not batch or shard is not None:  # a shard is read at once
                yield None
            if batch and (len(batch) == length or (index is None and shard is None)):
                yield Run(batch, shard, len(batch) * self.chunk_nbytes)
                batch, length = [], next(lengths)
        if batch:
            yield Run(batch, shard, len(batch) * self.chunk_nbytes)

    def _by_shard(
        self, ranges: list[tuple[int, int]], present: Presence | None = None
    ) -> Iterator[tuple[Index | None, list[tuple[int, int]]]]:
        per = self.per_shard
        shards = [(start // n, -(-stop // n)) for (start, stop), n in zip(ranges, per, strict=True)]
        for shard in odometer(shards) if present is None else present.within(shards):
            if shard is None:
                yield None, []
                continue
            yield (
                shard,
                [
                    (max(start, at * n), min(stop, at * n + n))
                    for (start, stop), at, n in zip(ranges, shard, per, strict=True)
                ],
            )


def _ramp(most: int, workers: int) -> Iterator[int]:
    """Short runs first, so that the first chunks come soon; then longer ones."""
    length = 1
    while length < most:
        yield from repeat(length, workers)
        length *= 2
    yield from repeat(most)


def odometer(ranges: list[tuple[int, int]]) -> Iterator[Index]:
    """Count through half-open ranges in C order. ``itertools.product`` would first write every range out."""
    if any(stop <= start for start, stop in ranges):
        return
    if not ranges:
        yield ()
        return
    *outer, (first, last) = ranges
    for head in odometer(outer):
        for at in range(first, last):
            yield (*head, at)


def itemsize_of(dtype: np.dtype[Any]) -> int:
    """Bytes for one element; an estimate where the element lies outside the array."""
    return max(dtype.itemsize, _ESTIMATE) if dtype.hasobject or dtype.kind == "T" else dtype.itemsize


def _kept(indices: Iterator[Index | None], wanted: Callable[[Index], Any] | None, pace: Pace) -> Iterator[Index | None]:
    """Yield what is wanted, and None whenever it has looked for long."""
    for index in indices:
        if index is None or wanted is None or wanted(index):
            yield index
        if pace.is_over:
            yield None
            pace.begin()
