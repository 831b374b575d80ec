"""Boxes of positions within a chunk: half-open bounds for each axis, counted from its corner. Pure arithmetic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from zarrstream.streaming.chunk import Region

Box: TypeAlias = "tuple[tuple[int, int], ...]"


def box_of(region: Region) -> Box:
    """Return the bounds of a region."""
    return tuple((part.start, part.stop) for part in region)


def volume(box: Box) -> int:
    """Return how many positions a box has."""
    return math.prod(stop - start for start, stop in box)


def within(inner: Box, outer: Box) -> bool:
    """Whether a box lies in another."""
    return all(first <= start and stop <= last for (start, stop), (first, last) in zip(inner, outer, strict=True))


def overlaps(one: Box, other: Box) -> bool:
    """Whether two boxes have a position in common."""
    return all(start < last and first < stop for (start, stop), (first, last) in zip(one, other, strict=True))


def joined(one: Box, other: Box) -> Box | None:
    """Return the box that two boxes make; None where they make none."""
    if within(one, other) or within(other, one):
        return max(one, other, key=volume)
    apart = [axis for axis, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    if len(apart) != 1:
        return None
    (axis,) = apart
    (start, stop), (first, last) = one[axis], other[axis]
    if stop < first or last < start:
        return None
    return (*one[:axis], (min(start, first), max(stop, last)), *one[axis + 1 :])


def bounds_of(given: npt.NDArray[np.bool_]) -> Box:
    """Return the smallest box that has all true positions of an array in it; there is one at least."""
    bounds = []
    for axis in range(given.ndim):
        at = np.flatnonzero(given.any(axis=tuple(other for other in range(given.ndim) if other != axis)))
        bounds.append((int(at[0]), int(at[-1]) + 1))
    return tuple(bounds)
