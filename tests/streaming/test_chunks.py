"""What `stream_chunks` yields, in which order, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from tests.streaming.spies import AsyncSpy, Spy, filled
from zarrstream import Chunk, ChunkStream, Progress, chunk_region, stream_chunks

STORES = [Spy, AsyncSpy]


def test_order_is_c_order() -> None:
    """Chunks come in C order of their indices."""
    array, _ = filled(Spy())
    assert [chunk.index for chunk in stream_chunks(array)] == list(np.ndindex(4, 3))


def test_order_goes_shard_by_shard() -> None:
    """Of a sharded array the inner chunks come, shard by shard."""
    array, values = filled(Spy(), shape=(8, 8), chunks=(2, 2), shards=(4, 4))
    indices = [chunk.index for chunk in stream_chunks(array)]
    assert indices[:5] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]
    assert len(set(indices)) == 16 == len(stream_chunks(array))
    out = np.zeros_like(values)
    for chunk in stream_chunks(array, ordered=False):
        out[chunk.region] = chunk.data
    assert (out == values).all()


@pytest.mark.parametrize("store", STORES)
def test_lazy_and_repeatable(store: type) -> None:
    """Nothing is read before the first chunk is asked for, and each `iter()` starts anew."""
    array, _ = filled(store())
    stream = stream_chunks(array)
    assert bool(stream)
    iterator = iter(stream)
    assert not array.store.calls
    next(iterator)
    assert array.store.calls
    iterator.close()
    assert len(list(stream)) == len(list(stream)) == 12


def test_length_is_known_or_refused() -> None:
    """`len()` counts chunks, and is a TypeError where filter, missing chunks or errors could change it."""
    array, _ = filled(Spy())
    assert len(stream_chunks(array, region=(slice(0, 6),))) == 6
    for options in ({"filter": bool}, {"include_missing": False}, {"on_error": "skip"}):
        with pytest.raises(TypeError):
            len(stream_chunks(array, **options))


def test_region_clips() -> None:
    """A region clips the chunks that it cuts; `index` stays the chunk's own."""
    array, values = filled(Spy())
    chunks = list(stream_chunks(array, region=(slice(4, 6), slice(1, -3))))
    assert [chunk.index for chunk in chunks] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert chunks[0].region == (slice(4, 5), slice(1, 4))
    assert (chunks[0].data == values[4:5, 1:4]).all()
    assert [chunk.region[0] for chunk in stream_chunks(array, region=(..., slice(0, 4)))] == [
        slice(at, at + 5) for at in (0, 5, 10, 15)
    ]


def test_edges_are_clipped() -> None:
    """A chunk at the edge is as small as the array leaves it."""
    array, values = filled(Spy(), shape=(7, 5))
    last = list(stream_chunks(array))[-1]
    assert last.data.shape == (2, 1)
    assert last.region == (slice(5, 7), slice(4, 5)) == chunk_region(array, last.index)
    assert (last.data == values[5:, 4:]).all()


@pytest.mark.parametrize("store", STORES)
def test_filter_is_asked_in_order_before_fetching(store: type) -> None:
    """What the filter refuses is never fetched."""
    array, _ = filled(store())
    asked = []

    def even(index: tuple[int, ...]) -> bool:
        asked.append(index)
        return sum(index) % 2 == 0

    got = [chunk.index for chunk in stream_chunks(array, filter=even)]
    assert asked == list(np.ndindex(4, 3))
    assert got == [index for index in asked if sum(index) % 2 == 0]
    assert len(array.store.seen("get")) == len(got)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("options", [{}, {"shards": (10, 8)}, {"zarr_format": 2}])
def test_missing_chunks(store: type, options: dict) -> None:
    """Absent chunks come as fill values, or not at all and unread."""
    array, _ = filled(store(), shape=(20, 16), **options)
    array[5:10, 4:8] = -1
    array[10:20, 8:16] = -1
    every = {chunk.index: chunk.data for chunk in stream_chunks(array)}
    assert len(every) == 16
    assert (every[1, 1] == -1).all()
    assert not every[1, 1].flags.writeable
    array.store.calls.clear()
    stored = [chunk.index for chunk in stream_chunks(array, include_missing=False)]
    absent = {(1, 1), (2, 2), (2, 3), (3, 2), (3, 3)}
    assert set(stored) == set(np.ndindex(4, 4)) - absent
    assert len(stored) == 11
    if not options.get("shards"):
        assert stored == sorted(stored)
    assert sum(array.store.seen("get").values()) <= (3 if options.get("shards") else 11)


def test_missing_without_listing() -> None:
    """A store that cannot list is read, and absent chunks are dropped."""

    class Listless(Spy):
        supports_listing = False

    array, _ = filled(Listless())
    array[0:5, 0:4] = -1
    assert (0, 0) not in [chunk.index for chunk in stream_chunks(array, include_missing=False)]


def test_unordered_keeps_the_index() -> None:
    """Out of order, each chunk still says which it is."""
    array, values = filled(Spy())
    for chunk in stream_chunks(array, ordered=False, concurrency=3):
        assert (chunk.data == values[chunk.region]).all()


def test_writable_is_a_copy() -> None:
    """Only `writable=True` hands out data that may be changed, and changing them changes nothing else."""
    array, values = filled(Spy(), compressors=None)
    assert not next(iter(stream_chunks(array))).data.flags.writeable
    for chunk in stream_chunks(array, writable=True):
        chunk.data[...] = 0
    assert (array[...] == values).all()


def test_zero_dimensions_and_empty() -> None:
    """An array without dimensions is one chunk; an empty one is none."""
    array = zarr.create_array({}, shape=(), dtype="i4", fill_value=7)
    [chunk] = stream_chunks(array)
    assert chunk == Chunk((), (), chunk.data)
    assert chunk.data.shape == ()
    assert chunk.data == 7
    assert list(stream_chunks(zarr.create_array({}, shape=(0, 3), chunks=(1, 1), dtype="i4"))) == []


def test_progress_counts() -> None:
    """`progress` hears of each chunk, in the caller's thread."""
    array, values = filled(Spy())
    heard: list[Progress] = []
    list(stream_chunks(array, progress=heard.append))
    assert [now.done for now in heard] == list(range(1, 13))
    assert heard[-1] == Progress(12, 12, 0, 0, values.nbytes, (3, 2))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"region": (0,)}, TypeError),
        ({"region": (slice(0, 9, 2),)}, ValueError),
        ({"region": (slice(0), slice(0), slice(0))}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1.5}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"on_error": "ignore"}, ValueError),
        ({"on_error": 3}, TypeError),
        ({"filter": 3}, TypeError),
        ({"progress": 3}, TypeError),
    ],
)
def test_bad_arguments_are_named(options: dict, error: type[Exception]) -> None:
    """A bad argument is refused when the stream is made, by its name."""
    array, _ = filled(Spy())
    with pytest.raises(error, match=next(iter(options))):
        stream_chunks(array, **options)


def test_other_things_are_no_arrays() -> None:
    """What is no zarr array is refused by its type."""
    with pytest.raises(TypeError, match="ndarray"):
        stream_chunks(np.zeros(3))


def test_repr_helps() -> None:
    """The stream and its chunks say what they are without their data."""
    array, _ = filled(Spy())
    stream = stream_chunks(array, region=(slice(0, 5),))
    assert "[0:5, 0:12]" in repr(stream)
    assert "3 in all" in repr(stream)
    assert isinstance(stream, ChunkStream)
    assert repr(next(iter(stream))) == "Chunk(index=(0, 0), region=[0:5, 0:4], data=<int32 (5, 4)>)"


@pytest.mark.parametrize("shards", [None, (4, 2)])
@pytest.mark.parametrize("chunks", [10**6, 10**11])
def test_only_stored_chunks_cost_what_is_stored(chunks: int, shards: tuple[int, int] | None) -> None:
    """A grid of a hundred thousand million chunks is not gone through for the two that are there."""
    side = int(chunks**0.5) // 4 * 4
    array = zarr.create_array({}, shape=(side, side), chunks=(1, 1), shards=shards, dtype="i1", fill_value=0)
    for index in ((0, 0), (side - 1, side // 2)):
        array[index] = 1
    found = {chunk.index for chunk in stream_chunks(array, include_missing=False)}
    assert found == {(0, 0), (side - 1, side // 2)}
    below = stream_chunks(array, region=np.s_[1:], include_missing=False)
    assert {chunk.index for chunk in below} == {(side - 1, side // 2)}
