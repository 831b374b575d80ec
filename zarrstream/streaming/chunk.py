"""The words that reading and writing share: a chunk, a slice, how far it went, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from zarrstream.errors import ChunkError

Index: TypeAlias = "tuple[int, ...]"
Region: TypeAlias = "tuple[slice, ...]"


class Chunk(NamedTuple):
    """One chunk of an array, or the part of it that lies in the wanted region.

    Parameters
    ----------
    index : tuple of int
        Coordinates in the grid of ``array.chunks`` (of inner chunks, where the array is sharded).
    region : tuple of slice
        The half-open slices of the array that ``data`` covers: ``out[chunk.region] = chunk.data`` rebuilds it.
    data : numpy.ndarray
        The values. A chunk at the array's edge is clipped.
    """

    index: Index  # type: ignore[assignment]  # it hides tuple.index, which nobody asks a chunk for
    region: Region
    data: npt.NDArray[Any]

    def __repr__(self) -> str:
        return f"Chunk(index={self.index}, region={show_region(self.region)}, data={show_array(self.data)})"


class Slice(NamedTuple):
    """A piece of an array between two positions of one axis.

    Parameters
    ----------
    start : int
        Where the slice begins on the axis.
    region : tuple of slice
        The half-open slices of the array that ``data`` covers: ``out[s.region] = s.data`` rebuilds it.
    data : numpy.ndarray
        The values. The axis is kept; the last slice is clipped.
    """

    start: int
    region: Region
    data: npt.NDArray[Any]

    def __repr__(self) -> str:
        return f"Slice(start={self.start}, region={show_region(self.region)}, data={show_array(self.data)})"


@dataclass(frozen=True)
class Progress:
    """How far a stream has come, as a ``progress`` or ``checkpoint`` callable receives it.

    Parameters
    ----------
    done : int
        Chunks yielded, or stored and acknowledged (elided ones included).
    total : int or None
        Chunks in all, where that is known.
    failed : int
        Chunks given up under ``on_error="skip"`` or by a callable.
    skipped : int
        Chunks passed over: filtered out, or done before (by the checkpoint).
    nbytes : int
        Decoded bytes of the done ones.
    last_index : tuple of int or None
        Reading: the chunk just yielded. Writing: the frontier in source order; it and every item pulled before it are
        acknowledged, elided, skipped or counted as failed. ``None`` until there is one.
    """

    done: int
    total: int | None
    failed: int
    skipped: int
    nbytes: int
    last_index: Index | None


@dataclass(frozen=True)
class WriteReport:
    """What a `write_stream` did.

    Parameters
    ----------
    written : int
        Chunks stored, or elided because they equal the fill value.
    skipped : int
        Chunks passed over: filtered out, or done already when the checkpoint was opened.
    failed : int
        Chunks given up under ``on_error="skip"`` or by a callable.
    nbytes : int
        Decoded bytes of the written chunks.
    seconds : float
        Wall time from the first pull to the last acknowledgement.
    last_index : tuple of int or None
        The frontier in source order; see `Progress`.
    errors : tuple of ChunkError
        The first hundred errors behind ``failed``.
    lost : int
        Chunks that the checkpoint recorded as stored and that were not in the store: they are pending again.
    rewritten : int
        Chunks that the store held and the checkpoint had not recorded: in flight when a former run was killed.
    """

    written: int
    skipped: int
    failed: int
    nbytes: int
    seconds: float
    last_index: Index | None
    errors: tuple[ChunkError, ...] = ()
    lost: int = 0
    rewritten: int = 0


def show_region(region: Region) -> str:
    """Write a region as it is written between brackets: ``[0:10, 20:25]``."""
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in region) + "]"


def show_array(data: np.ndarray[Any, Any]) -> str:
    """Name a value's type and shape without its content."""
    return f"<{data.dtype} {data.shape}>"
