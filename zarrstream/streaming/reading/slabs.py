"""How slices are put together: bands of chunks, what each slice needs of them, and what the window has to fetch.

Chunks are gathered into *bands*: the rows of chunks, or of whole shards where these fit, that lie at the same place
of the axis. A slice is a view of one band, or is put together from several; a band is kept until the last slice that
crosses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zarrstream.errors import SlabTooLargeError
from zarrstream.streaming.chunk import Chunk, Slice
from zarrstream.streaming.engine.window import GIVE_WAY, WAIT
from zarrstream.streaming.reading.reader import Reading, ReadPlan, Skipped

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Iterator

    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.engine.window import Inbox, LoopInbox
    from zarrstream.streaming.layout.bitmap import Presence


@dataclass(frozen=True)
class SlicePlan:
    """Slices of one axis, checked; see `stream_slices` for the fields. Positions are elements of the axis."""

    read: ReadPlan
    axis: int
    starts: range
    stop: int
    thickness: int
    writable: bool

    @property
    def codec(self) -> ArrayCodec:
        """The array."""
        return self.read.codec

    @property
    def count(self) -> int | None:
        """How many slices will come, where that is known beforehand."""
        return len(self.starts) if self.read.on_error == "raise" else None

    @property
    def row(self) -> int:
        """The length of a band: a row of shards where it fits ``max_bytes``, else a row of chunks."""
        grid = self.read.codec.grid
        if grid.shards is not None and self._cross_nbytes * grid.shards[self.axis] <= self.read.limits.max_bytes:
            return grid.shards[self.axis]
        return grid.chunks[self.axis]

    @property
    def _cross_nbytes(self) -> int:
        """Decoded bytes of all chunks of a slice of thickness one, for each element of the axis."""
        grid = self.read.codec.grid
        others = [
            (last - first) * step
            for at, ((first, last), step) in enumerate(zip(grid.covering(self.read.region), grid.chunks, strict=True))
            if at != self.axis
        ]
        return math.prod(others) * grid.itemsize

    def check_slab(self) -> None:
        """Refuse slices whose chunks do not fit.

        Raises
        ------
        SlabTooLargeError
            With the size and what helps.
        """
        step = self.read.codec.grid.chunks[self.axis]
        starts = np.asarray(self.starts[: step + 1], dtype=np.int64)  # after so many starts the pattern repeats
        if not len(starts):
            return
        rows = int(((np.minimum(starts + self.thickness, self.stop) - 1) // step - starts // step).max()) + 1
        slab = rows * step * self._cross_nbytes
        if slab > self.read.limits.max_bytes:
            raise SlabTooLargeError(
                f"a slice of thickness {self.thickness} on axis {self.axis} crosses chunks of {slab:,} bytes, but "
                f"max_bytes is {self.read.limits.max_bytes:,}: raise max_bytes, narrow the region, take another axis, "
                f"or re-chunk the array (its chunks are {self.read.codec.grid.chunks})"
            )

    def region_of(self, start: int) -> Region:
        """Where a slice lies."""
        return self.band_region(start, min(start + self.thickness, self.stop))

    def band_region(self, first: int, last: int) -> Region:
        """The wanted region between two positions of the axis."""
        return (*self.read.region[: self.axis], slice(first, last), *self.read.region[self.axis + 1 :])

    def bands_of(self, start: int) -> range:
        """The bands that a slice crosses."""
        return range(start // self.row, (min(start + self.thickness, self.stop) - 1) // self.row + 1)

    def bands(self) -> Iterator[int]:
        """Yield the bands that any slice crosses, in order."""
        following = 0
        for start in self.starts:
            for band in self.bands_of(start):
                if band >= following:
                    following = band + 1
                    yield band

    def slices_in(self, band: int) -> Iterator[int]:
        """Yield the starts of the slices that cross a band."""
        first, last = band * self.row, (band + 1) * self.row
        if not self.starts:
            return
        begin, step = self.starts.start, self.starts.step
        at = max(0, -(-(first - self.thickness + 1 - begin) // step))
        while at < len(self.starts) and self.starts[at] < last:
            yield self.starts[at]
            at += 1

    @property
    def leaves_out(self) -> bool:
        """Whether there can be rows of chunks that no slice crosses."""
        return self.starts.step - self.thickness >= self.read.codec.grid.chunks[self.axis]

    def is_crossed(self, index: Index) -> bool:
        """Whether a slice crosses a chunk's row."""
        length = self.read.codec.grid.chunks[self.axis]
        first = index[self.axis] * length
        before = -(-(first - self.thickness + 1 - self.starts.start) // self.starts.step)
        at = max(0, before)
        return at < len(self.starts) and self.starts[at] < first + length

    def chunks_in(self, region: Region) -> int:
        """The number of chunks that are read of a band."""
        ranges = self.read.codec.grid.covering(region)
        if not self.leaves_out:
            return math.prod(stop - first for first, stop in ranges)
        others = math.prod(stop - first for axis, (first, stop) in enumerate(ranges) if axis != self.axis)
        at = [first for first, _ in ranges]
        rows = (self.is_crossed((*at[: self.axis], row)) for row in range(*ranges[self.axis]))
        return others * sum(rows)

    def part_of(self, band: int) -> Region:
        """The wanted region of a band; of its rows of chunks those are read that a slice crosses."""
        low, high = band * self.row, min((band + 1) * self.row, self.stop)
        return self.band_region(max(low, self.starts.start), high)

    def begin(self, observer: Observer, inbox: Inbox | LoopInbox, loop: asyncio.AbstractEventLoop) -> SliceReading:
        """Start a pass."""
        shards = self.read.codec.grid.shards
        cuts_shards = shards is not None and self.row != shards[self.axis]
        read = replace(self.read, filter=self.is_crossed) if self.leaves_out else self.read
        chunks = Reading(read, observer, inbox, loop, map(self.part_of, self.bands()), cuts_shards=cuts_shards)
        return SliceReading(self, chunks)


class Band:
    """The chunks of one band while they arrive.

    Parameters
    ----------
    plan : SlicePlan
        The slices.
    number : int
        Which band.
    """

    def __init__(self, plan: SlicePlan, number: int) -> None:
        self._plan = plan
        self.region = plan.part_of(number)
        self._count = plan.chunks_in(self.region)
        self._come: set[Index] = set()
        self.users = sum(1 for _ in plan.slices_in(number))
        self._alone = plan.read.codec.grid.count(self.region) == 1
        self._data: npt.NDArray[Any] | None = None
        self._lost: list[slice] = []

    @property
    def waiting(self) -> int:
        """How many chunks have not come; one that came twice has come once."""
        return self._count - len(self._come)

    def place(self, chunk: Chunk) -> None:
        """Take a chunk in; a band of one chunk is that chunk."""
        self._come.add(chunk.index)
        if self._alone:
            self._data = chunk.data
            return
        if self._data is None:
            shape = [part.stop - part.start for part in self.region]
            self._data = np.empty(shape, dtype=chunk.data.dtype)
        self._data[self._inside(chunk.region)] = chunk.data

    def lose(self, index: Index, region: Region) -> None:
        """Note a chunk that was given up: no slice that crosses it will come."""
        self._come.add(index)
        self._lost.append(region[self._plan.axis])

    def has_lost(self, rows: slice) -> bool:
        """Whether a part of these rows is lost."""
        return any(lost.start < rows.stop and rows.start < lost.stop for lost in self._lost)

    def cut(self, region: Region) -> npt.NDArray[Any]:
        """The part of a region that lies in this band."""
        assert self._data is not None
        rows, own = region[self._plan.axis], self.region[self._plan.axis]
        inside = slice(max(rows.start, own.start), min(rows.stop, own.stop))
        return self._data[self._inside((*region[: self._plan.axis], inside, *region[self._plan.axis + 1 :]))]

    def _inside(self, region: Region) -> Region:
        return tuple(
            slice(part.start - edge.start, part.stop - edge.start)
            for part, edge in zip(region, self.region, strict=True)
        )


class SliceReading:
    """One pass over an axis: chunks in, slices out.

    Parameters
    ----------
    plan : SlicePlan
        The slices.
    chunks : Reading
        The pass over the bands' chunks.
    """

    def __init__(self, plan: SlicePlan, chunks: Reading) -> None:
        self._plan, self._chunks = plan, chunks
        self.window = chunks.window
        self._bands: dict[int, Band] = {}

    def steps(self, present: Presence | None) -> Generator[Any, None, None]:
        """Yield slices, `Skipped`, `WAIT` where only a finished job can take it on, and `GIVE_WAY`."""
        axis, row = self._plan.axis, self._plan.row
        grid = self._plan.read.codec.grid
        for item in self._chunks.steps(present):
            if item is WAIT or item is GIVE_WAY:
                yield item
                continue
            number = item.index[axis] * grid.chunks[axis] // row
            if (band := self._bands.get(number)) is None:
                band = self._bands[number] = Band(self._plan, number)
            if isinstance(item, Chunk):
                band.place(item)
            else:
                band.lose(item.index, grid.region_of(item.index))
            del item  # a slice may be held for long, the chunk behind it need not
            if not band.waiting:
                yield from self._complete(number)

    def _complete(self, number: int) -> Generator[Any, None, None]:
        """Yield the slices for which this band was the last to come in."""
        for start in self._plan.slices_in(number):
            numbers = self._plan.bands_of(start)
            bands = [self._bands.get(at) for at in numbers]
            if all(band is not None and not band.waiting for band in bands):
                yield self._slice(start, [band for band in bands if band is not None])
                for at in numbers:
                    self._leave(at)

    def _leave(self, number: int) -> None:
        band = self._bands[number]
        band.users -= 1
        if not band.users:
            # The entry stays until here, so that a band is never begun twice; its data go with the last slice.
            del self._bands[number]

    def _slice(self, start: int, bands: list[Band]) -> Slice | Skipped:
        region = self._plan.region_of(start)
        if any(band.has_lost(region[self._plan.axis]) for band in bands):
            return Skipped((start,))
        parts = [band.cut(region) for band in bands]
        data = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self._plan.axis)
        if self._plan.writable:
            data = data.copy() if len(parts) == 1 else data
        elif data.flags.writeable:
            data.flags.writeable = False
        return Slice(start, region, data)
