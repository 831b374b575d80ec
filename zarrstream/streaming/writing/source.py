"""The items of a source, made into whole chunks: checked, copied and padded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from zarrstream.errors import UnalignedChunkError
from zarrstream.streaming.chunk import Chunk, Index, Region, Slice, show_region
from zarrstream.streaming.layout.grid import odometer
from zarrstream.streaming.options import is_whole
from zarrstream.streaming.region import slices_of
from zarrstream.streaming.transport.turns import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from zarrstream.streaming.codecs.array import ArrayCodec

    NDArray: TypeAlias = npt.NDArray[Any]


def parse(codec: ArrayCodec, given: object, *, merges: bool = False) -> tuple[Region, NDArray]:
    """Check one item of a source.

    Parameters
    ----------
    codec : ArrayCodec
        The target.
    given : Chunk, (index, data) or (region, data)
        The item. For a `Chunk` the region decides.
    merges : bool
        Whether its region may cut through chunks.

    Returns
    -------
    region : tuple of slice
        Whole chunks of the target, clipped at its edge, or also parts of chunks.
    data : numpy.ndarray
        Values of that shape in the array's data type.

    Raises
    ------
    TypeError, ValueError
        If it is no item, or its data do not fit.
    UnalignedChunkError
        If the region cuts through a chunk and may not.
    """
    where, data = _pair(given)
    if isinstance(where, Mapping) or (all(map(_is_slice, where)) and (where or not codec.grid.shape)):
        region = _region(codec, slices_of(where, codec.grid.shape, codec.dimension_names), merges=merges)
    else:
        region = codec.grid.region_of(_index(codec, where))
    return region, _fitting(codec, region, data)


def _pair(given: Any) -> tuple[tuple[Any, ...] | Mapping[Any, Any], Any]:
    """Return where an item's data belong, as a tuple of ints or of slices, or by dimension names, and the data."""
    if isinstance(given, (Chunk, Slice)):
        return given.region, given.data
    if not isinstance(given, (tuple, list)) or len(given) != 2:  # noqa: PLR2004  # a pair
        raise TypeError(f"a source yields {_ITEMS}, not {_kind(given)}")
    where, data = given
    if isinstance(where, Mapping):
        return where, data
    if _is_slice(where) or (is_whole(where) and not isinstance(where, np.ndarray)):
        return (where,), data  # an array of one dimension
    if isinstance(where, (list, np.ndarray)):
        where = tuple(where)
    if not isinstance(where, tuple) or any(isinstance(part, (bool, np.bool_)) for part in where):
        raise TypeError(f"a source yields {_ITEMS}; the first of a pair is {where!r}, of {_kind(where)}")
    return where, data


def _is_slice(part: object) -> bool:
    return isinstance(part, slice) or part is Ellipsis


_ITEMS = (
    "a Chunk, a Slice, (index, data) or (region, data), where an index is a tuple of ints in the target's chunk grid, "
    "such as (0, 3), and a region a tuple of slices, such as numpy.s_[0:10, 0:20], or names dimensions"
)


def _kind(value: object) -> str:
    kind = type(value)
    return (
        kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
    )


def whole_chunk(codec: ArrayCodec, given: Any) -> tuple[Index, NDArray] | None:
    """Recognise the plainest item: an index of ints and an array that is just that chunk. None for every other."""
    if type(given) is not tuple or len(given) != 2:  # noqa: PLR2004  # a pair
        return None
    index, data = given
    grid = codec.grid
    if type(index) is not tuple or len(index) != len(grid.chunks) or type(data) is not np.ndarray:
        return None
    for at, step, size in zip(index, grid.chunks, grid.shape, strict=True):
        if type(at) is not int or at < 0 or (at + 1) * step > size:
            return None
    return (index, data) if data.shape == grid.chunks and data.dtype == codec.dtype else None


def pieces_of(codec: ArrayCodec, region: Region, data: NDArray) -> Iterator[tuple[Index, Region | None, NDArray]]:
    """Yield a region's chunks, in C order: where the given part of each lies in it, None for all, and its values."""
    grid = codec.grid
    for index in odometer(grid.covering(region)):
        part, own = grid.region_of(index, region), grid.region_of(index)
        inside = _from_corner(part, region)
        yield index, None if part == own else _from_corner(part, own), data[inside] if inside else data


def _from_corner(part: Region, of: Region) -> Region:
    return tuple(slice(p.start - o.start, p.stop - o.start) for p, o in zip(part, of, strict=True))


def whole(codec: ArrayCodec, data: NDArray) -> NDArray:
    """Make the whole chunk: a copy (the caller may fill its buffer anew), padded where the edge clips it."""
    if data.shape == codec.grid.chunks:
        return data if _is_frozen(data) else _copy(data)
    padded = codec.filled(codec.grid.chunks)
    padded[tuple(slice(0, size) for size in data.shape)] = data
    return padded


def _index(codec: ArrayCodec, where: tuple[Any, ...]) -> Index:
    counts = codec.grid.counts
    try:
        index = tuple(part.__index__() for part in where)
    except AttributeError:
        raise TypeError(
            f"{where!r} is neither an index (a tuple of ints) nor a region (a tuple of slices) of the target"
        ) from None
    if len(index) != len(counts) or not all(0 <= at < count for at, count in zip(index, counts, strict=True)):
        raise ValueError(f"chunk {index} is not in the target's chunk grid of {counts} chunks")
    return index


def _region(codec: ArrayCodec, given: Region, *, merges: bool) -> Region:
    grid = codec.grid
    region = []
    for part, size, step in zip(given, grid.shape, grid.chunks, strict=True):
        first, last = (_from_start(at, size, whole) for at, whole in ((part.start, 0), (part.stop, size)))
        if not 0 <= first < last <= size:
            raise ValueError(f"region {show_region(given)} is not a part of the target's shape {grid.shape}")
        if not merges and (first % step or (last % step and last != size)):
            raise UnalignedChunkError(
                f"region {show_region(given)} cuts through chunks of {grid.chunks}: start at multiples of the chunk "
                "shape and stop at multiples or at the array's end, or pass partial='merge' to have the rest of these "
                "chunks read, merged and written again"
            )
        region.append(slice(first, last))
    return tuple(region)


def _from_start(at: Any, size: int, default: int) -> int:
    """Return the position of one end of a slice; a negative one counts from the end of the axis."""
    position = default if at is None else int(at)
    return position + size if position < 0 else position


def _fitting(codec: ArrayCodec, region: Region, given: Any) -> NDArray:
    data = _plain(codec, region, given)
    shape = tuple(part.stop - part.start for part in region)
    if data.shape != shape:
        raise ValueError(f"data for region {show_region(region)} must have shape {shape}, not {data.shape}")
    if not _same_kind(data.dtype, codec.dtype):
        raise TypeError(
            f"data for region {show_region(region)} are {data.dtype}, but the target holds {codec.dtype}: "
            f"{_conversion(codec)}"
        )
    if data.dtype.names is not None or (data.dtype.kind == "S" and codec.dtype.kind in "OT"):
        return data.astype(codec.dtype, copy=False)  # padding and the order of bytes aside they are the same
    return data


#: The attributes by which the CF conventions say that stored numbers stand for others.
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value")


def _conversion(codec: ArrayCodec) -> str:
    """Return what to do about data of another type. To cast values into a packed array would store nonsense."""
    packing = [name for name in _PACKING if name in codec.array.attrs]
    if packing:
        return (
            f"its attributes ({', '.join(packing)}) say that it is packed by the CF conventions, and streams take and "
            f"give stored values. Pack the data as xarray does (xarray.conventions.encode_cf_variable), or write them "
            f"with Dataset.to_zarr"
        )
    wanted = "the array's own dtype" if codec.dtype.names else repr(str(codec.dtype))
    return f"convert them with .astype({wanted}) where that is what you mean"


def _plain(codec: ArrayCodec, region: Region, given: Any) -> NDArray:
    """Return given data as a plain array: nothing that goes beyond one is dropped without a word."""
    given = getattr(given, "data", given) if type(given).__module__.startswith("xarray.") else given
    if isinstance(given, np.ma.MaskedArray):
        if not np.ma.is_masked(given):
            return np.asarray(given.data)
        fill = codec.metadata.fill_value
        if fill is None:
            raise TypeError(
                f"data for region {show_region(region)} are masked, and the array has no fill value to stand for what "
                f"is masked: pass data.filled(value)"
            )
        return np.asarray(given.filled(fill))
    if hasattr(given, "magnitude") and hasattr(given, "units"):
        raise TypeError(
            f"data for region {show_region(region)} have units ({given.units}), which the array would lose: "
            f"pass .magnitude, in the units that the array's attributes name"
        )
    return np.asarray(given)


def _same_kind(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if wanted.kind in "OT" and given.kind in "OTUS":
        return True
    if wanted.names is not None or given.names is not None:
        return given.names == wanted.names and all(_same_kind(given[name], wanted[name]) for name in wanted.names or ())
    return given.kind not in "OT" and given.newbyteorder("=") == wanted.newbyteorder("=")


def _copy(data: NDArray) -> NDArray:
    """Copy values; small ones without giving the interpreter lock away, as numpy does, and then waiting for it."""
    if data.nbytes > SMALL_BYTES or data.dtype.hasobject or data.dtype.kind == "T":
        return data.copy()
    return np.ndarray(data.shape, data.dtype, data.tobytes())


def _is_frozen(data: NDArray) -> bool:
    """Whether nobody can change the values any more: a read-only view of bytes, as streams yield them."""
    base: Any = data
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return isinstance(base, bytes)
