"""Items that give parts of chunks: gathered while they come, merged with what is stored, each once."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline
from zarr.storage import MemoryStore

from tests.streaming.spies import AsyncSpy, Spy, eventually
from tests.streaming.test_told import STORES, every_face, every_kind, every_layout, written
from zarrstream import stream_slices, write_stream
from zarrstream.concurrency.key_lock import merging
from zarrstream.errors import ChunkWriteError, UnalignedChunkError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zarr.abc.store import Store

SHAPE, CHUNKS, SHARDS = (11, 7), (4, 3), (8, 6)


def new(store: Store, *, sharded: bool = False, dtype: Any = "i4", **options: Any) -> zarr.Array:
    """Make an array whose last chunks are cut by its edge, of ones."""
    made = zarr.create_array(
        store, shape=SHAPE, chunks=CHUNKS, shards=SHARDS if sharded else None, dtype=dtype, fill_value=0, **options
    )
    made[...] = np.ones(SHAPE, "i4").astype(dtype)
    return made


def boxes(seed: int, count: int) -> list[tuple[slice, slice]]:
    """Return random regions, most of which cut through chunks."""
    chance = random.Random(seed)  # noqa: S311  # it chooses what a test writes

    def span(size: int) -> slice:
        start = chance.randrange(size)
        return slice(start, chance.randrange(start, size) + 1)

    return [(span(SHAPE[0]), span(SHAPE[1])) for _ in range(count)]


def numbered(regions: list[tuple[slice, slice]], dtype: Any = "i4") -> Iterator[Any]:
    """Yield a value of its own for each region."""
    for number, region in enumerate(regions, 2):
        shape = tuple(part.stop - part.start for part in region)
        yield region, np.full(shape, number, "i4").astype(dtype)


def expected(regions: list[tuple[slice, slice]], dtype: Any = "i4") -> np.ndarray:
    """Return what an array of ones holds afterwards."""
    out = np.ones(SHAPE, "i4").astype(dtype)
    for region, data in numbered(regions, dtype):
        out[region] = data
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_bytes", [1, 1 << 20])
@every_layout
@every_face
@every_kind
async def test_parts_are_merged_in_the_order_of_the_source(
    kind: str, face: str, sharded: bool, max_bytes: int, seed: int, tmp_path: Path
) -> None:
    """Whatever comes, in however little memory: the last value of each position is stored, and the others stay."""
    store = STORES[kind](tmp_path)
    array = new(store, sharded=sharded)
    regions = boxes(seed, 12)
    report = await written(face, array, numbered(regions), partial="merge", max_bytes=max_bytes, concurrency=3)
    np.testing.assert_array_equal(array[...], expected(regions))
    assert report.failed == report.skipped == 0
    store.close()


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("dtype", ["u1", ">i2", "f8", "c8", "M8[s]", "S3", "U4", str, [("a", "i4"), ("b", "f4")]])
@pytest.mark.parametrize(("zarr_format", "sharded"), [(2, False), (3, False), (3, True)])
def test_parts_of_every_type_are_merged(dtype: Any, zarr_format: Any, sharded: bool) -> None:
    """Numbers, dates, texts and records."""
    if isinstance(dtype, list) and sharded:  # zarr 3.1.6 cannot make it
        dtype = "i8"
    options: dict[str, Any] = {"fill_value": ""} if dtype is str else {}
    made = zarr.create_array(
        MemoryStore(), shape=(8,), chunks=(4,), shards=(8,) if sharded else None, dtype=dtype, zarr_format=zarr_format,
        **options,
    )  # fmt: skip
    wanted = np.zeros(8, made.dtype)
    values = np.arange(1, 9).astype("i4").astype(made.dtype) if made.dtype.names is None else np.ones(8, made.dtype)
    if made.dtype.kind in "OT":
        wanted, values = np.full(8, "", made.dtype), np.array(list("abcdefgh"), made.dtype)
    made[...] = wanted
    for region in (slice(1, 3), slice(2, 6), slice(7, 8)):
        wanted[region] = values[region]
        write_stream(made, [(region, values[region])], partial="merge")
    assert made[...].tolist() == wanted.tolist()


@every_layout
@every_face
async def test_a_cut_is_refused_by_default(face: str, sharded: bool) -> None:
    """The message says how to have it merged, and nothing is stored of it."""
    array = new(MemoryStore(), sharded=sharded)
    for options in ({}, {"partial": "refuse"}):
        with pytest.raises(UnalignedChunkError, match="partial='merge'"):
            await written(face, array, numbered([(slice(0, 3), slice(0, 7))]), **options)
    assert (array[...] == 1).all()


@every_face
@pytest.mark.parametrize("partial", ["Merge", "", None, True, "read"])
async def test_another_word_is_refused(face: str, partial: Any) -> None:
    """Before anything is pulled."""

    def source() -> Iterator[Any]:
        raise AssertionError("it was pulled")
        yield

    with pytest.raises(ValueError, match="partial must be 'refuse' or 'merge', not"):
        await written(face, new(MemoryStore()), source(), partial=partial)


class OtherPipeline(BatchedCodecPipeline):
    """Not zarr's own, so that zarr has to write."""


@every_layout
@every_face
async def test_where_zarr_itself_writes_parts_are_merged_as_well(face: str, sharded: bool) -> None:
    """With a pipeline that is not its default."""
    with zarr.config.set({"codec_pipeline.path": f"{OtherPipeline.__module__}.{OtherPipeline.__name__}"}):
        register_pipeline(OtherPipeline)
        array = new(MemoryStore(), sharded=sharded)
        regions = boxes(3, 12)
        await written(face, array, numbered(regions), partial="merge", max_bytes=100)
        np.testing.assert_array_equal(array[...], expected(regions))


# -- as few requests as there can be ----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [Spy, AsyncSpy])
@every_layout
def test_parts_that_make_a_chunk_whole_read_nothing(store: Any, sharded: bool) -> None:
    """They are gathered: one write for each stored object, and no read of an inner one."""
    array = zarr.create_array(
        store(), shape=(16, 6), chunks=(4, 3), shards=(8, 6) if sharded else None, dtype="i4", compressors=None
    )
    source = zarr.create_array({}, shape=(16, 6), chunks=(1, 6), dtype="i4")
    source[...] = np.arange(1, 97).reshape(16, 6)
    report = write_stream(array, stream_slices(source), partial="merge")
    np.testing.assert_array_equal(array[...], source[...])
    assert report.written == 32  # of 16 slices two parts each
    assert report.nbytes == 96 * 4
    assert set(array.store.seen("set").values()) == {1}
    assert len(array.store.seen("set")) == (2 if sharded else 8)


@every_layout
def test_a_part_reads_its_chunk_once(sharded: bool) -> None:
    """And writes it once, however many parts the source has for it."""
    array = new(Spy(), sharded=sharded)
    array.store.calls.clear()
    write_stream(array, numbered([(slice(row, row + 1), slice(0, 3)) for row in (0, 2, 1)]), partial="merge")
    assert sum(array.store.seen("get").values()) == 1
    assert sum(array.store.seen("set").values()) == 1


@every_layout
def test_a_whole_item_takes_the_place_of_parts_that_wait(sharded: bool) -> None:
    """And a part that comes behind it is taken into it: each is counted."""
    array = new(Spy(), sharded=sharded)
    regions = [np.s_[0:2, 0:3], np.s_[0:4, 0:3], np.s_[3:4, 1:2]]
    report = write_stream(array, numbered(regions), partial="merge")
    np.testing.assert_array_equal(array[...], expected(regions))
    assert report.written == 3
    assert report.last_index == (0, 0)


@every_layout
def test_what_equals_the_fill_value_after_it_was_merged_is_elided(sharded: bool) -> None:
    """Its key is deleted, as zarr does."""
    array = zarr.create_array(
        Spy(), shape=(4, 4), chunks=(4, 4), shards=(4, 4) if sharded else None, dtype="i4", fill_value=0
    )
    array[0:1] = 5
    write_stream(array, [(np.s_[0:1], np.zeros((1, 4), "i4"))], partial="merge")
    assert list(array.store.seen("delete").values()) == [1]
    assert not array[...].any()


# -- failures ---------------------------------------------------------------------------------------------------------


@every_layout
@every_face
async def test_a_stored_chunk_that_cannot_be_read_is_not_overwritten(face: str, sharded: bool) -> None:
    """What a part does not give would be lost: the chunk fails, and the others are written."""
    array = new(Spy(), sharded=sharded)
    key = "c/0/0"
    broken = array.store._store_dict[key]
    array.store._store_dict[key] = type(broken).from_bytes(b"broken")
    with pytest.raises(ChunkWriteError):
        await written(face, array, numbered([np.s_[0:2, 0:3]]), partial="merge")
    report = await written(face, array, numbered([np.s_[0:2, 0:3], np.s_[8:9, 0:3]]), partial="merge", on_error="skip")
    assert (report.written, report.failed) == (1, 1)
    assert array.store._store_dict[key].to_bytes() == b"broken"
    assert array[8:9, :3].tolist() == [[3] * 3]


@every_layout
def test_a_failed_merge_is_tried_again(sharded: bool) -> None:
    """With the same values."""
    array = new(Spy(), sharded=sharded)
    failures = iter([OSError("once"), OSError("twice")])

    def fail(operation: str, _: str) -> None:
        if operation == "get" and (error := next(failures, None)) is not None:
            raise error

    array.store.hook = fail
    regions = [np.s_[0:2, 0:3]]
    assert write_stream(array, numbered(regions), partial="merge", on_error=lambda _: "retry").written == 1
    array.store.hook = None
    np.testing.assert_array_equal(array[...], expected(regions))


# -- one at a time ----------------------------------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("store", [Spy, AsyncSpy])
def test_two_streams_never_merge_into_one_chunk_at_once(store: Any, sharded: bool) -> None:
    """The one that comes later waits until the other has written, and reads what that one has merged."""
    array = new(store(), sharded=sharded)
    array.store.calls.clear()
    reads: list[str] = []

    def hold() -> None:
        reads.append("read")
        if len(reads) == 1:
            later.start()
            assert eventually(lambda: any(merging._waiting.values()), 30)
            assert len(reads) == 1

    async def ahold(operation: str, _: str) -> None:
        if operation == "get":
            await asyncio.to_thread(hold)

    def write(row: int) -> None:
        write_stream(array, [(np.s_[row : row + 1, 0:3], np.full((1, 3), 5, "i4"))], partial="merge")

    array.store.hook = ahold if store is AsyncSpy else lambda operation, _: hold() if operation == "get" else None
    later = threading.Thread(target=write, args=(2,))
    write(0)
    later.join()
    array.store.hook = None
    assert array[0:4, 0].tolist() == [5, 1, 5, 1]
    assert len(reads) == 2
