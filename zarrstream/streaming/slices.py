"""`stream_slices`: an array, slice by slice along one axis, each chunk decoded once whatever the thickness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.streaming.chunk import Slice, show_region
from zarrstream.streaming.codecs.array import AnyArray, ArrayCodec
from zarrstream.streaming.options import MAX_BYTES, TIMEOUT, Limits, OnError, OnProgress, is_whole
from zarrstream.streaming.read import Stream, Tally
from zarrstream.streaming.reading.reader import ReadPlan
from zarrstream.streaming.reading.slabs import SlicePlan
from zarrstream.streaming.region import axis_of, normalize_region

if TYPE_CHECKING:
    from zarrstream.streaming.engine.faces import Begin


class SliceStream(Stream[Slice, SlicePlan]):
    """A lazy, repeatable pass over an array's slices; made by `stream_slices`.

    Behaves as `ChunkStream` does: every ``iter()`` starts anew, and leaving it early leaves nothing behind.
    """

    def beginning(self) -> tuple[ReadPlan, Begin, Tally]:
        """What is read, how a pass over it begins, and what counts it."""
        plan = self._plan
        return plan.read, plan.begin, Tally(len(plan.starts))

    def _count(self) -> int | None:
        return self._plan.count

    def __repr__(self) -> str:
        plan = self._plan
        return (
            f"<SliceStream of {plan.read.codec.array.store_path} {show_region(plan.read.region)}, "
            f"axis {plan.axis}, thickness {plan.thickness}, {len(plan.starts)} in all>"
        )


def stream_slices(
    array: AnyArray,
    axis: int | str = 0,
    *,
    start: int = 0,
    stop: int | None = None,
    step: int | None = None,
    thickness: int = 1,
    region: object = None,
    concurrency: int | None = None,
    ordered: bool = True,
    on_error: OnError = "raise",
    timeout: float | None = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    writable: bool = False,
    progress: OnProgress | None = None,
) -> SliceStream:
    """Stream an array slice by slice along one axis, each chunk fetched and decoded once.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        Format 2 or 3, any data type, any codec, sharded or not.
    axis : int or str
        The axis; negative ones count from the last, names are the array's dimension names.
    start, stop : int
        Half-open range of positions on the axis, in elements; negative ones count from its end.
    step : int, optional
        From one slice's start to the next; default ``thickness``.
    thickness : int
        Elements of the axis in one slice; the last is clipped.
    region : slice, tuple of slice or mapping, optional
        The part of the array to stream, as in `stream_chunks`; it also clips the axis.
    concurrency, ordered, on_error, timeout, max_bytes, writable
        As in `stream_chunks`. A slice that crosses a skipped chunk is skipped. ``max_bytes`` bounds the chunks in
        flight; beside them one slab is held: all chunks that a slice crosses.
    progress : callable, optional
        Receives a `Progress` after each slice: it counts slices, and its ``last_index`` is ``(start,)``.

    Returns
    -------
    SliceStream
        An iterable of `Slice`.

    Raises
    ------
    SlabTooLargeError
        If the chunks that one slice crosses exceed ``max_bytes``; nothing was read then.
    TypeError, ValueError
        If an argument is not what it has to be.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.create_array({}, shape=(6, 4), chunks=(3, 4), dtype="i4")
    >>> array[...] = np.arange(24).reshape(6, 4)
    >>> [s.data.shape for s in stream_slices(array, thickness=4)]
    [(4, 4), (2, 4)]
    """

    def request() -> SlicePlan:
        codec = ArrayCodec(array)
        limits = Limits(concurrency, timeout, max_bytes)
        at = axis_of(axis, len(codec.grid.shape), codec.dimension_names)
        apart = thickness if step is None else step
        for name, value in (("thickness", thickness), ("step", apart)):
            if not is_whole(value) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        wanted = normalize_region(region, codec.grid.shape, codec.dimension_names)
        low, high, _ = slice(start, stop).indices(codec.grid.shape[at])
        low, high = max(low, wanted[at].start), min(high, wanted[at].stop)
        wanted = (*wanted[:at], slice(low, max(low, high)), *wanted[at + 1 :])
        read = ReadPlan(
            codec,
            wanted,
            limits,
            ordered=ordered,
            filter=None,
            include_missing=True,
            on_error=on_error,
            writable=False,
            progress=progress,
            kind="slices",
        )
        starts = range(low, low if any(part.stop <= part.start for part in wanted) else high, apart)
        plan = SlicePlan(read, at, starts, high, int(thickness), writable)
        plan.check_slab()
        return plan

    return SliceStream(request)
