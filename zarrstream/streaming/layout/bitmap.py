"""Which chunks, or stored objects, are there: one bit each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index

_BLOCK = 1 << 16  # bytes of a bitmap that are unpacked at once


class Presence:
    """Which stored objects are there, one bit each: ten million take 1.25 MB.

    Parameters
    ----------
    counts : tuple of int
        The grid's extent.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._counts = counts
        # Pages of zeros that nobody writes to take no memory, and blocks in which nothing is are not looked at.
        self._bits = np.zeros((math.prod(counts) + 7) // 8, dtype=np.uint8)
        self._blocks: set[int] = set()

    @classmethod
    def of(cls, flags: npt.NDArray[np.bool_]) -> Presence:
        """Make one of an array with a flag for each."""
        made = cls(flags.shape)
        made._bits = np.packbits(flags, bitorder="little")
        made._blocks.update(range(-(-len(made._bits) // _BLOCK)))
        return made

    def flags(self) -> npt.NDArray[np.bool_]:
        """Return a flag for each, as an array of the grid's extent."""
        count = math.prod(self._counts)
        return np.unpackbits(self._bits, count=count, bitorder="little").view(bool).reshape(self._counts)

    def missing(self, first: int, stop: int) -> Iterator[int]:
        """Yield the ordinals from ``first`` up to, not including, ``stop`` that are absent."""
        for block in range(first >> 3, -(-stop >> 3), _BLOCK):
            bits = np.unpackbits(self._bits[block : min(block + _BLOCK, -(-stop >> 3))], bitorder="little")
            for at in np.flatnonzero(bits == 0).tolist():
                if first <= block * 8 + at < stop:
                    yield block * 8 + at

    def _position(self, index: Index) -> int:
        position = 0
        for at, count in zip(index, self._counts, strict=True):
            position = position * count + at
        return position

    def add(self, index: Index) -> None:
        """Mark one as present; one outside the grid is none of ours."""
        if all(at < count for at, count in zip(index, self._counts, strict=True)):
            self._set(self._position(index), True)  # noqa: FBT003  # the bit

    def discard(self, index: Index) -> None:
        """Mark one as absent."""
        self._set(self._position(index), False)  # noqa: FBT003  # the bit

    def assign(self, first: int, stop: int, *, present: bool) -> None:
        """Mark all ordinals from ``first`` up to, not including, ``stop``."""
        head, tail = min(-(-first // 8) * 8, stop), max(stop // 8 * 8, first)
        for position in (*range(first, head), *range(max(head, tail), stop)):
            self._set(position, present)
        if head < tail:
            self._blocks.update(range(head // 8 // _BLOCK, -(-tail // 8 // _BLOCK)) if present else ())
            self._bits[head >> 3 : tail >> 3] = 0xFF if present else 0

    def positions(self) -> Iterator[int]:
        """Yield the ordinals of the present ones; what changes behind the one just yielded is not seen twice."""
        for block in sorted(self._blocks):
            first = block * _BLOCK
            bits = np.unpackbits(self._bits[first : first + _BLOCK], bitorder="little")
            for at in np.flatnonzero(bits).tolist():
                yield first * 8 + at

    def within(self, ranges: list[tuple[int, int]]) -> Iterator[Index | None]:
        """Yield the present ones of a part of the grid, in C order, at the cost of what is present and not of the grid.

        Where it has looked through many without finding one it yields None.

        Parameters
        ----------
        ranges : list of (int, int)
            Half-open, one for each axis.
        """
        for block in sorted(self._blocks):
            first = block * _BLOCK
            bits = np.unpackbits(self._bits[first : first + _BLOCK], bitorder="little")
            rest = np.flatnonzero(bits) + first * 8
            axes: list[npt.NDArray[np.int64]] = []
            for count in reversed(self._counts):
                rest, at = np.divmod(rest, count)
                axes.insert(0, at)
            inside = np.ones(len(rest), bool)
            for at, (low, high) in zip(axes, ranges, strict=True):
                inside &= (low <= at) & (at < high)
            if not inside.any():
                yield None
            elif axes:
                yield from zip(*(at[inside].tolist() for at in axes), strict=True)
            else:
                yield ()

    def _set(self, position: int, present: bool) -> None:  # noqa: FBT001  # one bit is what it sets
        if present:
            self._blocks.add((position >> 3) // _BLOCK)
            self._bits[position >> 3] |= 1 << (position & 7)
        else:
            self._bits[position >> 3] &= 0xFF ^ (1 << (position & 7))

    def __contains__(self, index: Index) -> bool:
        position = self._position(index)
        return bool(self._bits[position >> 3] >> (position & 7) & 1)

    def __len__(self) -> int:
        parts = (self._bits[block * _BLOCK : (block + 1) * _BLOCK] for block in self._blocks)
        return sum(int(np.bitwise_count(part).sum()) for part in parts)
