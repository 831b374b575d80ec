"""The items of a source, made into whole chunks: checked, copied and padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from zarrstream.errors import UnalignedChunkError
from zarrstream.streaming.chunk import Chunk, Index, Region, show_region
from zarrstream.streaming.grid import odometer
from zarrstream.streaming.turns import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from zarrstream.streaming.codec import ArrayCodec
    from zarrstream.streaming.frontier import Item

    NDArray: TypeAlias = npt.NDArray[Any]


@dataclass
class Piece:
    """One chunk of an item: its stored object, its whole data (edges padded), and what waits for it."""

    index: Index
    obj: Index
    data: NDArray
    nbytes: int
    items: tuple[Item, ...]


def parse(codec: ArrayCodec, given: object) -> tuple[Region, NDArray]:
    """Check one item of a source.

    Parameters
    ----------
    codec : ArrayCodec
        The target.
    given : Chunk, (index, data) or (region, data)
        The item. For a `Chunk` the region decides.

    Returns
    -------
    region : tuple of slice
        Whole chunks of the target, clipped at its edge.
    data : numpy.ndarray
        Values of that shape in the array's data type.

    Raises
    ------
    TypeError, ValueError
        If it is no item, or its data do not fit.
    UnalignedChunkError
        If the region cuts through a chunk.
    """
    if isinstance(given, Chunk):
        region, data = _region(codec, given.region), given.data
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], tuple):  # noqa: PLR2004  # a pair
        where, data = given
        if all(isinstance(part, slice) for part in where) and (where or not codec.grid.shape):
            region = _region(codec, where)
        else:
            region = codec.grid.region_of(_index(codec, where))
    else:
        raise TypeError(
            f"a source yields Chunk, (index, data) or (region, data), not {type(given).__name__}: an index is a tuple "
            "of ints in the target's chunk grid, a region a tuple of slices"
        )
    return region, _fitting(codec, region, data)


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


def pieces_of(codec: ArrayCodec, region: Region, data: NDArray) -> Iterator[tuple[Index, NDArray]]:
    """Yield a region's chunks, in C order, with views of their values."""
    grid = codec.grid
    for index in odometer(grid.covering(region)):
        part = grid.region_of(index)
        inside = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
        yield index, data[inside] if inside else data


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


def _region(codec: ArrayCodec, given: Region) -> Region:
    grid = codec.grid
    if len(given) != len(grid.shape):
        raise ValueError(f"region {given!r} has {len(given)} slices, but the target has {len(grid.shape)} dimensions")
    region = []
    for part, size, step in zip(given, grid.shape, grid.chunks, strict=True):
        first = 0 if part.start is None else part.start
        last = size if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= first < last <= size:
            raise ValueError(f"region {show_region(given)} is not a part of the target's shape {grid.shape}")
        if first % step or (last % step and last != size):
            raise UnalignedChunkError(
                f"region {show_region(given)} cuts through chunks of {grid.chunks}: start at multiples of the chunk "
                "shape and stop at multiples or at the array's end, or copy the source with matching chunks first"
            )
        region.append(slice(first, last))
    return tuple(region)


def _fitting(codec: ArrayCodec, region: Region, given: object) -> NDArray:
    data = np.asarray(given)
    shape = tuple(part.stop - part.start for part in region)
    if data.shape != shape:
        raise ValueError(f"data for region {show_region(region)} must have shape {shape}, not {data.shape}")
    if not _same_kind(data.dtype, codec.dtype):
        raise TypeError(
            f"data for region {show_region(region)} are {data.dtype}, but the target holds {codec.dtype}: "
            f"convert them with .astype({str(codec.dtype)!r}) where that is what you mean"
        )
    return data


def _same_kind(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    strings = "OTU"
    if wanted.kind in "OT" and given.kind in strings:
        return True
    return given.newbyteorder("=") == wanted.newbyteorder("=")


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
