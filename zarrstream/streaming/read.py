"""`stream_chunks`: an array, chunk by chunk."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Never, Protocol, Self, TypeVar

from zarrstream.streaming.chunk import Chunk, Progress, show_region
from zarrstream.streaming.codecs.array import AnyArray, ArrayCodec
from zarrstream.streaming.engine.faces import Begin, Ending, in_thread
from zarrstream.streaming.options import MAX_BYTES, TIMEOUT, Filter, Limits, OnError, OnProgress
from zarrstream.streaming.reading.reader import ReadPlan, Skipped
from zarrstream.streaming.region import normalize_region

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType

    from zarrstream.streaming.chunk import Index

Item = TypeVar("Item")
Plan = TypeVar("Plan", bound="Planned")


class Planned(Protocol):
    """A checked request for a stream of one array."""

    @property
    def codec(self) -> ArrayCodec:
        """The array, as it was when the request was checked."""


class Stream(ABC, Generic[Item, Plan]):
    """The base of both kinds of streams: every ``iter()`` starts anew, and all of them can be ended at once.

    Parameters
    ----------
    make : callable
        Checks the request; called again when the array has been resized since.
    """

    def __init__(self, make: Callable[[], Plan]) -> None:
        self._make = make
        self._made = make()
        self._open: weakref.WeakKeyDictionary[Generator[Item, None, None], Ending] = weakref.WeakKeyDictionary()

    @property
    def _plan(self) -> Plan:
        codec = self._made.codec
        if codec.metadata is not codec.array.metadata:
            self._made = self._make()
        return self._made

    @abstractmethod
    def beginning(self) -> tuple[ReadPlan, Begin, Tally]:
        """What is read, how a pass over it begins, and what counts it; both faces start from here."""

    @abstractmethod
    def _count(self) -> int | None:
        """How many items will come, where that is known beforehand."""

    def _items(self, ending: Ending) -> Generator[Item, None, None]:
        plan, begin, tally = self.beginning()
        with closing(in_thread(plan, begin, ending)) as items:
            for item in items:
                if plan.progress is not None:
                    plan.progress(tally.add(item))
                    if ending.asked:
                        return
                if type(item) is not Skipped:
                    yield item

    def __iter__(self) -> Iterator[Item]:
        ending = Ending()
        items = self._items(ending)
        self._open[items] = ending
        return items

    def __len__(self) -> int:
        if (count := self._count()) is None:
            raise TypeError(
                "the length is not known beforehand with filter, include_missing=False or an on_error that skips"
            )
        return count

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every iterator of this stream.

        One that is running, because this is called from its ``progress`` or ``filter`` or from another thread, ends at
        its next step.
        """
        for items, ending in list(self._open.items()):
            ending.ask()
            try:
                items.close()
            except ValueError as error:
                if "already executing" not in str(error):
                    raise

    def __reduce__(self) -> Never:
        raise TypeError("a stream does not pickle: send the array, and make the stream where it is used")


class ChunkStream(Stream[Chunk, ReadPlan]):
    """A lazy, repeatable pass over an array's chunks; made by `stream_chunks`.

    Every ``iter()`` starts anew and reads nothing before the first chunk is asked for. Leaving it early, by
    ``break``, an exception or `close`, starts no further read and leaves no thread, task or descriptor behind.

    Notes
    -----
    Threads: one iterator belongs to one thread at a time; several iterators are independent of each other. Processes:
    an iterator begun before a fork raises in the child. Inside a running event loop it works and blocks that loop; use
    `zarrstream.aio` there.
    """

    def beginning(self) -> tuple[ReadPlan, Begin, Tally]:
        """What is read, how a pass over it begins, and what counts it."""
        plan = self._plan
        tally = Tally(plan.codec.grid.count(plan.region) if plan.include_missing else None)
        if plan.filter is not None and plan.progress is not None:
            plan = replace(plan, filter=tally.counting(plan.filter))
        return plan, plan.begin, tally

    def _count(self) -> int | None:
        return self._plan.chunk_count

    def __repr__(self) -> str:
        plan = self._plan
        count = "" if plan.chunk_count is None else f", {plan.chunk_count} in all"
        return (
            f"<ChunkStream of {plan.codec.array.store_path} {show_region(plan.region)}, "
            f"chunks {plan.codec.grid.chunks}{count}>"
        )


class Tally:
    """Counts what a stream yields, for ``progress``.

    Parameters
    ----------
    total : int or None
        How many items there are, those that will be skipped or given up included; None where that is not known.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._done = self._failed = self._skipped = self._nbytes = 0
        self._last: tuple[int, ...] | None = None

    def counting(self, wanted: Filter) -> Filter:
        """Return a filter that counts what it leaves out."""

        def counted(index: Index) -> object:
            answer = wanted(index)
            if not answer:
                self._skipped += 1
            return answer

        return counted

    def add(self, item: Any) -> Progress:
        """Count a chunk, slice or skipped one, and tell how far the stream has come."""
        if isinstance(item, Skipped):
            self._failed += 1
        else:
            self._done += 1
            self._nbytes += item.data.nbytes
            self._last = item.index if isinstance(item, Chunk) else (item.start,)
        return Progress(self._done, self._total, self._failed, self._skipped, self._nbytes, self._last)


def stream_chunks(
    array: AnyArray,
    *,
    region: object = None,
    concurrency: int | None = None,
    ordered: bool = True,
    filter: Filter | None = None,  # noqa: A002  # the word that users look for
    include_missing: bool = True,
    on_error: OnError = "raise",
    timeout: float | None = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    writable: bool = False,
    progress: OnProgress | None = None,
) -> ChunkStream:
    """Stream an array chunk by chunk, with bounded memory, each stored object fetched and decoded once.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        Format 2 or 3, any data type, any codec, sharded or not.
    region : slice, tuple of slice or mapping, optional
        The part of the array to stream, in elements, such as ``numpy.s_[0:5, ..., 10:20]``, or by dimension names,
        such as ``{"time": slice(0, 5)}``; chunks are clipped to it. Default: all of it.
    concurrency : int, optional
        Threads on stores that support zarr's synchronous methods (default: the cores), requests on others (default:
        16).
    ordered : bool
        Whether chunks come in C order (for a sharded array shard by shard, C order within); else as they arrive.
    filter : callable, optional
        Called as ``filter(index)`` in order, before fetching; falsy leaves the chunk out.
    include_missing : bool
        Whether chunks that are not stored come as fill values, as ``array[...]`` has them. False lists the store and
        yields the stored ones alone.
    on_error : {"raise", "skip"} or callable
        What a chunk that cannot be read does. ``"raise"`` ends the stream; ``"skip"`` logs, counts and goes on; a
        callable receives the error and may raise, return ``"retry"`` to have the chunk read again, or anything else
        to skip it.
    timeout : float, optional
        Seconds that one chunk may take from the start of its fetch to the end of its decoding; None for no limit.
    max_bytes : int
        Bound of the decoded bytes in flight, plus one chunk.
    writable : bool
        Whether ``data`` is a copy that may be changed; otherwise it is read-only and may be a view.
    progress : callable, optional
        Receives a `Progress` after each chunk, in the caller's thread.

    Returns
    -------
    ChunkStream
        An iterable of `Chunk`. ``len()`` is the number of chunks where that is known beforehand.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it has to be.
    UnsupportedArrayError
        If the array's chunk grid is not regular.
    ChunkReadError
        While iterating: a chunk could not be fetched or decoded.
    ChunkTimeoutError
        While iterating: a chunk took longer than ``timeout``. A synchronous call cannot be interrupted: its thread is
        abandoned.
    RuntimeError
        While iterating: on zarr's own event loop, or in a process forked after the iterator began.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.create_array({}, shape=(6, 4), chunks=(3, 4), dtype="i4")
    >>> array[...] = np.arange(24).reshape(6, 4)
    >>> [int(chunk.data.sum()) for chunk in stream_chunks(array)]
    [66, 210]
    """

    def plan() -> ReadPlan:
        codec = ArrayCodec(array)
        return ReadPlan(
            codec,
            normalize_region(region, codec.grid.shape, codec.dimension_names),
            Limits(concurrency, timeout, max_bytes),
            ordered,
            filter,
            include_missing,
            on_error,
            writable,
            progress,
        )

    return ChunkStream(plan)
