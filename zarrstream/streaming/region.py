"""The part of an array that a user asks for: slices, dimension names, one ``...``. Every function reads it alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from zarrstream.streaming.options import is_whole

if TYPE_CHECKING:
    from zarrstream.streaming.chunk import Region

Names: TypeAlias = "tuple[str | None, ...]"

_MEANT = (
    "a region is a tuple of slices, such as numpy.s_[0:5, 10:20], or names dimensions, such as {'time': slice(0, 5)}"
)
_POSITIONS = re.compile(r"\s*\[?[-+\d\s:,.]*\d[-+\d\s:,.]*\]?\s*")


def normalize_region(region: object, shape: tuple[int, ...], names: Names = ()) -> Region:
    """Turn a region that a user gave into one half-open slice for each axis, clipped to the array.

    Parameters
    ----------
    region : slice, tuple of slice, mapping or None
        Slices, one for each axis from the first, with at most one ``...`` for the axes between; or a mapping of
        dimension names, or of numbers of axes, to slices. None is all of the array.
    shape : tuple of int
        The array's shape.
    names : tuple of str or None
        The array's dimension names, where it has them.

    Raises
    ------
    TypeError
        If something other than slices and one ``...`` is in it.
    ValueError
        If a slice has a step, there are more slices than axes, or the array has no such dimension.
    """
    return tuple(_clipped(part, size) for part, size in zip(slices_of(region, shape, names), shape, strict=True))


def slices_of(region: object, shape: tuple[int, ...], names: Names = ()) -> Region:
    """Turn a region that a user gave into one slice for each axis, its bounds as given; see `normalize_region`."""
    parts = _parts(region, shape, names)
    for part in parts:
        _check(part)
    return parts


def axis_of(axis: object, ndim: int, names: Names = ()) -> int:
    """Turn an axis that a user gave into its number.

    Raises
    ------
    ValueError
        If the array has no such axis or dimension name, or several of that name.
    TypeError
        If it is neither a whole number nor a name.
    """
    if isinstance(axis, str):
        if names.count(axis) > 1:
            raise ValueError(f"several dimensions of the array are named {axis!r}: give the number of the axis")
        if axis not in names:
            known = [name for name in names if name]
            near = difflib.get_close_matches(axis, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the array has no dimension named {axis!r}; it has {known or 'no names'}{hint}")
        return names.index(axis)
    if not isinstance(axis, int) and not is_whole(axis):
        raise TypeError(f"axis must be a whole number or a dimension name, not {axis!r}")
    number = int(axis)  # type: ignore[call-overload]  # it is whole
    if not ndim:
        raise ValueError("an array of 0 dimensions has no axis to be cut along: stream_chunks gives its one value")
    if not -ndim <= number < ndim:
        raise ValueError(f"axis {axis} is out of range for an array of {ndim} dimensions")
    return int(number % ndim)


def _parts(region: Any, shape: tuple[int, ...], names: Names) -> tuple[Any, ...]:
    if isinstance(region, Mapping):
        return _by_name(region, shape, names)
    if isinstance(region, list):
        region = tuple(region)
    parts: tuple[Any, ...] = () if region is None else region if isinstance(region, tuple) else (region,)
    gaps = [at for at, part in enumerate(parts) if part is Ellipsis]
    if len(gaps) > 1:
        raise TypeError(f"a region has one '...' at most, not {len(gaps)}: {_MEANT}")
    missing = len(shape) - (len(parts) - len(gaps))
    if missing < 0:
        raise ValueError(
            f"region has {len(parts) - len(gaps)} slices, but the array has {len(shape)} dimensions: {shape}"
        )
    at = gaps[0] if gaps else len(parts)
    return (*parts[:at], *(slice(None),) * missing, *parts[at + len(gaps) :])


def _by_name(region: Mapping[Any, Any], shape: tuple[int, ...], names: Names) -> tuple[Any, ...]:
    parts: dict[int, Any] = {}
    for name, part in region.items():
        axis = axis_of(name, len(shape), names)
        if axis in parts:
            raise ValueError(f"region {region!r} names axis {axis} twice")
        parts[axis] = part
    return tuple(parts.get(axis, slice(None)) for axis in range(len(shape)))


def _check(part: object) -> None:
    """Refuse what is no slice of positions."""
    if not isinstance(part, slice):
        raise TypeError(f"a region is made of slices, not {part!r}: {_remedy(part)}")
    if any(bound is not None and not is_whole(bound) for bound in (part.start, part.stop, part.step)):
        raise TypeError(
            f"the bounds of a region's slices are whole numbers, positions along the axis, and not as in {part!r}: "
            f"find the positions of labels first, in xarray with Dataset.get_index(name).slice_indexer(first, last)"
        )
    if part.step not in (None, 1):
        raise ValueError(f"a region has no step, but {part!r} has: stream the whole range and take what you need")


def _remedy(part: object) -> str:
    if is_whole(part):
        at = int(part)  # type: ignore[call-overload]  # it is whole
        return f"write slice({at}, {at + 1 or None}) for one position; the axis is kept"
    if isinstance(part, str) and _POSITIONS.fullmatch(part):
        return f"write numpy.s_[{part.strip().strip('[]')}], without quotation marks"
    return _MEANT


def _clipped(part: slice, size: int) -> slice:
    start, stop, _ = part.indices(size)
    return slice(start, max(start, stop))
