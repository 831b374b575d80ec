"""Shards that are written anew, or hang, while a stream reads them piece by piece."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.storage import LocalStore, MemoryStore

from tests.streaming.spies import AsyncSpy, Spy
from zarrstream import ChunkReadError, ChunkTimeoutError, MappingStore, stream_chunks, stream_slices, write_stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STORES: dict[str, Callable[[Path], Any]] = {
    "files": LocalStore,
    "a mapping": lambda _: MappingStore({}),
    "memory": lambda _: Spy(),
    "awaited": lambda _: AsyncSpy(),
}
N = 64


@pytest.fixture(params=STORES.values(), ids=STORES)
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> zarr.Array[Any]:
    """One shard whose chunk ``i`` holds ``i + 1``, uncompressed: all chunks have one length."""
    store = request.param(tmp_path / "a")
    array = zarr.create_array(store, shape=(4 * N,), chunks=(4,), shards=(4 * N,), dtype="i4", compressors=None)
    array[...] = np.repeat(np.arange(1, N + 1), 4)
    return array


@pytest.mark.parametrize("at_end", [True, False])
def test_a_shard_written_anew_gives_old_or_new_values(shard: zarr.Array[Any], *, at_end: bool) -> None:
    """Chunks behind one that was emptied keep their own values, wherever the new shard has them."""
    chunks = iter(stream_chunks(shard, max_bytes=64))
    next(chunks)
    emptied = N - 2 if at_end else 1
    shard[4 * emptied : 4 * emptied + 4] = 0
    found = {chunk.index[0]: chunk.data for chunk in chunks}
    assert len(found) == N - 1
    for index, data in found.items():
        assert data.tolist() in ([index + 1] * 4, [0] * 4 if index == emptied else [index + 1] * 4)


def test_slices_of_a_shard_written_anew_are_old_or_new(shard: zarr.Array[Any]) -> None:
    """Slices that cut a shard see each chunk's own values while it is written anew."""
    slices = iter(stream_slices(shard, thickness=4, max_bytes=16))
    next(slices)
    shard[4:8] = 0
    assert all(found.data[0] == found.start // 4 + 1 or found.start == 4 for found in slices)


def test_an_array_is_changed_in_place(shard: zarr.Array[Any]) -> None:
    """A stream whose chunks are written back into the shard that they come from changes each chunk once."""
    report = write_stream(
        shard,
        ((chunk.index, chunk.data + 1000) for chunk in stream_chunks(shard, max_bytes=64, concurrency=1)),
        max_bytes=64,
        concurrency=1,
    )
    assert (report.written, report.failed) == (N, 0)
    assert shard[::4].tolist() == list(range(1001, 1001 + N))


def test_a_shard_removed_meanwhile_is_absent(shard: zarr.Array[Any]) -> None:
    """Chunks of a shard that is deleted while it is read are old values or fill values, never an error."""
    chunks = iter(stream_chunks(shard, max_bytes=64))
    next(chunks)
    shard[...] = 0
    assert all(set(chunk.data.tolist()) <= {0, chunk.index[0] + 1} for chunk in chunks)


def test_a_torn_shard_is_an_error() -> None:
    """A shard that stays shorter than its index says is an error that says so."""
    store = MemoryStore()
    array = zarr.create_array(store, shape=(4 * N,), chunks=(4,), shards=(4 * N,), dtype="i4", compressors=None)
    array[...] = np.repeat(np.arange(1, N + 1), 4)
    whole = store._store_dict["c/0"]
    store._store_dict["c/0"] = whole[len(whole) - 16 * N - 4 + 16 :]
    with pytest.raises(ChunkReadError, match=r"truncated|torn"):
        list(stream_chunks(array, max_bytes=64))


class _StuckIndex(MemoryStore):
    """The first request for a shard's index hangs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.stuck = False

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        if self.stuck and isinstance(byte_range, SuffixByteRequest):
            self.stuck = False
            self.free.wait(30)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)


def test_a_stuck_index_holds_no_retry() -> None:
    """Each chunk that waited for an index that hangs is read by its first retry, with a request of its own."""
    store = _StuckIndex()
    array = zarr.create_array(store, shape=(64,), chunks=(2,), shards=(32,), dtype="i4", compressors=None)
    array[...] = 1
    store.stuck, retried = True, []

    def again(error: Exception) -> str:
        retried.append(getattr(error, "index", None))
        return "retry"

    try:
        assert len(list(stream_chunks(array, max_bytes=64, timeout=1.0, on_error=again))) == 32
    finally:
        store.free.set()
    assert all(retried.count(index) <= 2 for index in retried)


class _HangingIndex(MemoryStore):
    """Every request for a shard's index hangs."""

    _supports_sync_io = False
    hangs = False

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        if self.hangs and isinstance(byte_range, SuffixByteRequest):
            await asyncio.Event().wait()
        return await super().get(key, prototype, byte_range)


def test_all_who_wait_for_an_index_are_timed_out() -> None:
    """Whoever waits for a request of another chunk that hangs is told of a time-out, as that one is."""
    store = _HangingIndex()
    array = zarr.create_array(store, shape=(64, 8), chunks=(2, 8), shards=(64, 8), dtype="i4", compressors=None)
    array[...] = 1
    store.hangs, errors = True, []
    list(stream_slices(array, thickness=2, max_bytes=512, timeout=0.05, concurrency=8, on_error=errors.append))
    assert {type(error) for error in errors} == {ChunkTimeoutError}
    assert len(errors) == 32


class _WholeAnswers(MemoryStore):
    """A store whose server ignores ranges and answers with the whole object."""

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        return super().get_sync(key, prototype=prototype, byte_range=None)


def test_a_whole_shard_for_a_range_is_cut() -> None:
    """A server that answers a range with the whole shard is understood, as the index at its end proves."""
    store = _WholeAnswers()
    array = zarr.create_array(store, shape=(64,), chunks=(2,), shards=(64,), dtype="i4", compressors=None)
    array[...] = np.arange(1, 65)
    [chunk] = stream_chunks(array, filter=lambda index: index == (7,))
    assert chunk.data.tolist() == [15, 16]


def test_a_missing_chunk_takes_the_memory_of_its_part_in_the_array() -> None:
    """An absent chunk of 2 GiB in an array of ten values is ten values."""
    array = zarr.create_array({}, shape=(10,), chunks=(2**28,), dtype="f8", fill_value=np.nan)
    tracemalloc.start()
    [chunk] = stream_chunks(array)
    [copied] = stream_chunks(array, writable=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    assert chunk.data.shape == copied.data.shape == (10,)
    assert np.isnan(chunk.data).all()
    assert copied.data.flags.writeable
    copied.data[0] = 1  # a copy of its own: nothing else changes
    assert np.isnan(copied.data[1:]).all()
