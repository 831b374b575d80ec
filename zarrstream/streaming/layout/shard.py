"""A shard's bytes: its index, the ranges of its chunks, and how it is put together. Pure: it neither reads nor decodes.

The layout is that of the zarr specification's ``sharding_indexed`` codec (https://zarr-specs.readthedocs.io, version
1.0): an array of (offset, length) pairs in C order, at the start or the end, with 2**64 - 1 twice for a chunk that is
not there.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.engine.job import Job

ABSENT = 2**64 - 1
GAP_BYTES = 1 << 16  # neighbours this close are fetched together: a request costs more than the bytes between
MERGED_BYTES = 16 << 20  # as zarr's array.sharding_coalesce_max_bytes
MOSTLY = 0.5  # from this share of its chunks on, a shard is fetched whole


@dataclass(frozen=True)
class ShardLayout:
    """How the shards of one array are laid out.

    Parameters
    ----------
    per_shard : tuple of int
        Chunks along each axis of a shard.
    index_nbytes : int
        Bytes of the encoded index.
    index_at_end : bool
        Whether the index follows the chunks.
    decode_index, encode_index : callable
        Encoded index to an array of uint64 of shape ``(*per_shard, 2)``, and back.
    """

    per_shard: tuple[int, ...]
    index_nbytes: int
    index_at_end: bool
    decode_index: Callable[[Any], npt.NDArray[np.uint64]]
    encode_index: Callable[[npt.NDArray[np.uint64]], Any]

    @property
    def index_range(self) -> tuple[int, int | None]:
        """The byte range of the index, half-open; negative where it counts from the end."""
        return (-self.index_nbytes, None) if self.index_at_end else (0, self.index_nbytes)

    def local(self, indices: Sequence[Index]) -> list[Index]:
        """Chunks' coordinates within their shard."""
        return [tuple(at) for at in (np.array(indices) % self.per_shard).tolist()]

    def index_of(self, shard: memoryview) -> npt.NDArray[np.uint64]:
        """The index of a shard that is there as a whole.

        Raises
        ------
        ValueError
            If the shard is shorter than its index.
        """
        if len(shard) < self.index_nbytes:
            raise ValueError(f"the shard has {len(shard)} bytes, fewer than its index ({self.index_nbytes}): torn")
        return self.decode_index(shard[-self.index_nbytes :] if self.index_at_end else shard[: self.index_nbytes])

    def ranges(self, index: npt.NDArray[np.uint64], wanted: Sequence[Index]) -> list[tuple[int, int] | None]:
        """The byte range of each wanted chunk, or None for one that is not there."""
        local = np.array(wanted) % self.per_shard
        return [
            None if offset == ABSENT else (offset, offset + length) for offset, length in index[tuple(local.T)].tolist()
        ]

    def assemble(self, parts: dict[Index, Any]) -> list[Any]:
        """Put encoded chunks, by their coordinates within the shard, together; the pieces are to be joined in order.

        The chunks lie in C order, so that the same chunks always give the same bytes, whichever way they came in.
        """
        index = np.full((*self.per_shard, 2), ABSENT, dtype="<u8")
        order = sorted(parts)
        pieces = [memoryview(parts[local]).cast("B") for local in order]
        lengths = np.array([len(piece) for piece in pieces], dtype="<u8")
        first = 0 if self.index_at_end else self.index_nbytes
        index[tuple(np.array(order).T)] = np.stack([np.cumsum(lengths) - lengths + np.uint64(first), lengths], axis=-1)
        encoded = self.encode_index(index)
        return [*pieces, encoded] if self.index_at_end else [encoded, *pieces]

    def mostly(self, wanted: int) -> bool:
        """Whether so many chunks are enough to fetch the shard as a whole."""
        return wanted >= MOSTLY * math.prod(self.per_shard)


def coalesce(spans: Iterable[tuple[int, int] | None], gap: int) -> list[tuple[int, int]]:
    """Merge byte ranges that touch or nearly do.

    Parameters
    ----------
    spans : iterable of (int, int) or None
        Half-open byte ranges, in any order; None for a chunk that is not there.
    gap : int
        Bytes that may lie between two that are merged.

    Returns
    -------
    list of (int, int)
        Sorted ranges that cover them, none longer than `MERGED_BYTES` unless one span is.
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(span for span in spans if span):
        if merged and start - merged[-1][1] <= gap and stop - merged[-1][0] <= MERGED_BYTES:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


class Shared:
    """Values that several runs need and one of them reads; the oldest go first.

    Whoever reads may be given up, stuck in a call: then the next who asks reads, and nobody waits for the first.

    Parameters
    ----------
    most : int
        How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._futures: OrderedDict[Any, tuple[Future[Any], Job]] = OrderedDict()
        self._lock = Lock()

    def get(self, name: Any, job: Job, read: Callable[[], Any]) -> tuple[Any, bool]:
        """Return a value, and whether it was read just now; the first who asks reads it, other threads wait for it."""
        while True:
            future, mine = self._claim(name, job)
            if mine:
                try:
                    future.set_result(value := read())
                except BaseException as error:
                    self._leave(name, future, error)
                    raise
                return value, True
            with suppress(_GaveUpError):
                return future.result(), False

    async def aget(
        self, name: Any, job: Job, began: Callable[[], None], read: Callable[[], Awaitable[Any]]
    ) -> tuple[Any, bool]:
        """Return a value, and whether it was read just now; the first who asks reads it, other tasks wait for it.

        ``began`` starts the clock of those who wait: they wait for a request that has left.
        """
        while True:
            future, mine = self._claim(name, job)
            if mine:
                try:
                    future.set_result(value := await read())
                except BaseException as error:
                    self._leave(name, future, error)
                    raise
                return value, True
            began()
            with suppress(_GaveUpError):
                return await asyncio.wrap_future(future), False

    def forget(self, name: Any) -> None:
        """Drop a value that is no longer true."""
        with self._lock:
            self._futures.pop(name, None)

    def _claim(self, name: Any, job: Job) -> tuple[Future[Any], bool]:
        with self._lock:
            found = self._futures.get(name)
            if found is not None and (found[0].done() or not found[1].given_up):
                return found[0], False
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()  # a cancelled task that waits for it cancels itself alone
            self._futures[name] = future, job
            while len(self._futures) > self._most:
                self._futures.popitem(last=False)
            return future, True

    def _leave(self, name: Any, future: Future[Any], error: BaseException) -> None:
        with self._lock:
            if (found := self._futures.get(name)) is not None and found[0] is future:
                del self._futures[name]
        # A cancelled reader was given up; that is its own affair. Those who wait see to it themselves.
        future.set_exception(error if isinstance(error, Exception) else _GaveUpError())


class _GaveUpError(Exception):
    """Whoever was to read a shared value left without it."""
