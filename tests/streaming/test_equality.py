"""What is streamed is what `array[...]` has, whatever the array."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.sync import collect_aiterator
from zarr.storage import LocalStore, MemoryStore

from tests.streaming.spies import AsyncSpy
from zarrstream import MappingStore, stream_chunks, stream_slices, write_stream
from zarrstream.mappings.sqlite import SQLiteMapping

# Bytes, strings, datetimes and records have no specification in format 3; zarr says so each time.
pytestmark = pytest.mark.filterwarnings("ignore:The data type")

DTYPES = ["i1", "<u2", ">i4", "<f8", "f4", "bool", "c8", "M8[s]", "m8[ms]", "S5", "<U3"]
V3_CODECS: list[dict[str, Any]] = [
    {},
    {"compressors": None},
    {"compressors": ZstdCodec(level=1, checksum=True)},
    {"compressors": GzipCodec(level=1)},
    {"compressors": BloscCodec(cname="lz4")},
]


folder = tempfile.TemporaryDirectory()
numbers = itertools.count()


def local() -> LocalStore:
    """A new folder: files are read and written directly."""
    return LocalStore(f"{folder.name}/{next(numbers)}")


def sqlite() -> MappingStore:
    """A new database: runs are read and written in one call."""
    return MappingStore(SQLiteMapping(f"{folder.name}/{next(numbers)}.db"))


@st.composite
def arrays(draw: st.DrawFn, stores: Any = (MemoryStore, AsyncSpy, local, sqlite)) -> tuple[zarr.Array, np.ndarray]:
    """An array of any kind, some chunks of it not stored, and its values."""
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    chunks = tuple(draw(st.integers(1, max(1, size))) for size in shape)
    zarr_format = draw(st.sampled_from([2, 3]))
    options: dict[str, Any] = {"chunks": chunks, "zarr_format": zarr_format}
    if zarr_format == 3:
        options |= draw(st.sampled_from(V3_CODECS))
        if draw(st.booleans()) and shape:
            options["filters"] = [TransposeCodec(order=tuple(draw(st.permutations(range(len(shape))))))]
        elif shape and all(shape) and draw(st.booleans()):
            options["shards"] = tuple(chunk * draw(st.integers(1, 3)) for chunk in chunks)
        options["chunk_key_encoding"] = {"name": draw(st.sampled_from(["default", "v2"])), "separator": "/"}
    else:
        options["order"] = draw(st.sampled_from("CF"))
    values = draw(npst.arrays(dtype, shape))
    if dtype.kind in "iuf":
        options["fill_value"] = draw(st.sampled_from([0, 1, -0.0, float("nan")] if dtype.kind == "f" else [0, 1]))
    name = draw(st.sampled_from(["", "a", "a/b"]))
    array = zarr.create_array(draw(st.sampled_from(stores))(), name=name, shape=shape, dtype=dtype, **options)
    stored = draw(npst.arrays(bool, shape)) if draw(st.booleans()) else True
    array[...] = np.where(stored, values, array.fill_value).astype(dtype)
    return array, np.asarray(array[...])


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    if draw(st.booleans()):
        return None
    bounds = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return tuple(slice(low, high) for low, high in bounds)


def same(left: Any, right: Any) -> None:
    np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@given(st.data())
def test_chunks_rebuild_the_array(data: st.DataObject) -> None:
    """Every chunk once, in its place, clipped to the region; the rest is untouched."""
    array, values = data.draw(arrays())
    region = data.draw(regions(array.shape))
    ordered = data.draw(st.booleans())
    chunks = list(
        stream_chunks(array, region=region, ordered=ordered, max_bytes=data.draw(st.sampled_from([1, 64, 1 << 20])))
    )
    assert len(chunks) == len(stream_chunks(array, region=region)) == len({chunk.index for chunk in chunks})
    wanted = region if region is not None else tuple(slice(0, size) for size in array.shape)
    seen = np.zeros(array.shape, dtype=int)
    for chunk in chunks:
        assert chunk.data.dtype == array.dtype
        assert not chunk.data.flags.writeable
        same(chunk.data, values[chunk.region])
        seen[chunk.region] += 1
    assert (seen[wanted] == 1).all()
    assert seen.sum() == seen[wanted].size


@given(st.data())
def test_slices_rebuild_the_array(data: st.DataObject) -> None:
    """Whatever the axis, thickness and range: `out[s.region] = s.data`."""
    array, values = data.draw(arrays().filter(lambda made: made[0].ndim > 0))
    axis = data.draw(st.integers(-array.ndim, array.ndim - 1))
    start, stop = data.draw(st.integers(-9, 9)), data.draw(st.none() | st.integers(-9, 9))
    step, thickness = data.draw(st.none() | st.integers(1, 5)), data.draw(st.integers(1, 5))
    stream = stream_slices(array, axis, start=start, stop=stop, step=step, thickness=thickness)
    slices = list(stream)
    low, high, _ = slice(start, stop).indices(array.shape[axis])
    expected = list(range(low, high, step or thickness)) if all(array.shape) else []
    assert [found.start for found in slices] == expected
    assert len(stream) == len(slices)
    for found in slices:
        assert found.region[axis] == slice(found.start, min(found.start + thickness, high))
        same(found.data, values[found.region])


def timeless(stored: bytes) -> bytes:
    """The stored bytes without gzip's time of writing, which may be a second later in the second copy (RFC 1952)."""
    return stored[:4] + bytes(4) + stored[8:] if stored.startswith(b"\x1f\x8b") else stored


@given(st.data())
def test_written_is_what_zarr_would_have_written(data: st.DataObject) -> None:
    """A copy made by streams has the same values and the same keys as one made by zarr."""
    array, values = data.draw(arrays(stores=(MemoryStore,)))
    targets = []
    for _ in range(2):
        store = data.draw(st.sampled_from([MemoryStore, AsyncSpy]))()
        metadata = {
            key: value for key, value in array.store._store_dict.items() if key.endswith((".zarray", "zarr.json"))
        }
        store._store_dict.update(metadata)
        targets.append(zarr.open_array(store, path=array.path, mode="r+"))
    by_zarr, by_stream = targets
    by_zarr[...] = values
    write_stream(by_stream, stream_chunks(array), max_bytes=data.draw(st.sampled_from([1, 64, 1 << 20])))
    same(by_stream[...], values)
    keys = [set(collect_aiterator(target.store.list())) for target in targets]
    assert keys[0] == keys[1]
    if array.metadata.zarr_format == 2 or array.shards is None:
        # A shard's chunks lie in C order here, in Morton order with zarr; all else is equal byte for byte.
        for key in keys[0]:
            one, other = (target.store.get_sync(key).to_bytes() for target in targets)
            assert timeless(one) == timeless(other), key


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_strings_and_structured(zarr_format: int) -> None:
    """Variable-length strings and records stream as any other type."""
    words = np.array([["a", "bc"], ["", "ünïcödé"], ["x" * 99, "z"]], dtype=object)
    strings = zarr.create_array({}, shape=(3, 2), chunks=(2, 1), dtype=str, zarr_format=zarr_format)
    strings[...] = words
    out = np.empty((3, 2), dtype=object)
    for chunk in stream_chunks(strings):
        out[chunk.region] = chunk.data
    assert (out == words).all()
    again = zarr.create_array({}, shape=(3, 2), chunks=(1, 2), dtype=str, zarr_format=zarr_format)
    write_stream(again, [((row, 0), words[row : row + 1]) for row in range(3)])
    assert (np.asarray(again[...], dtype=object) == words).all()
    if zarr_format == 2:
        records = np.array([(1, 2.5), (3, 4.5), (5, 6.5)], dtype=[("a", "<i4"), ("b", "<f8")])
        structured = zarr.create_array({}, shape=(3,), chunks=(2,), dtype=records.dtype, zarr_format=2)
        write_stream(structured, [((slice(0, 3),), records)])
        assert (np.concatenate([chunk.data for chunk in stream_chunks(structured)]) == records).all()


def test_shards_within_shards() -> None:
    """What has no layout of its own is left to zarr, and still each chunk comes once."""
    inner = zarr.codecs.ShardingCodec(chunk_shape=(2, 2), codecs=[zarr.codecs.BytesCodec()])
    array = zarr.create_array(
        {}, shape=(8, 8), chunks=(4, 4), shards=(8, 8), dtype="i4", serializer=inner, compressors=None
    )
    values = np.arange(1, 65, dtype="i4").reshape(8, 8)
    write_stream(
        array, [((row, column), values[4 * row :, 4 * column :][:4, :4]) for row in (0, 1) for column in (0, 1)]
    )
    same(array[...], values)
    out = np.zeros_like(values)
    for chunk in stream_chunks(array):
        out[chunk.region] = chunk.data
    same(out, values)
