"""Slices that leave positions out between them: of the chunks, too, those alone are read that a slice crosses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from tests.streaming.spies import AsyncSpy, Spy
from zarrstream import aio, stream_slices

ROWS, CHUNK, SHARD = 60, 2, 12


class Ranges(Spy):
    """A store that counts the bytes that it gives."""

    moved = 0

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        value = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        self.moved += 0 if value is None else len(value)
        return value


def new(
    store: Any, shards: tuple[int, ...] | None = (SHARD, 8), chunks: tuple[int, int] = (CHUNK, 4)
) -> tuple[zarr.Array, np.ndarray]:
    """Make an array of rows of chunks, in shards of six rows."""
    array = zarr.create_array(store, shape=(ROWS, 8), chunks=chunks, shards=shards, dtype="i4", compressors=None)
    values = np.arange(1, 1 + ROWS * 8, dtype="i4").reshape(ROWS, 8)
    array[...] = values
    return array, values


@pytest.mark.parametrize("face", ["blocking", "aio"])
@pytest.mark.parametrize("store", [Spy, AsyncSpy])
@pytest.mark.parametrize("shards", [None, (SHARD, 8)])
@pytest.mark.parametrize("max_bytes", [200, 1 << 20])
@pytest.mark.parametrize("thickness", [1, 3])
@pytest.mark.parametrize("step", [1, 3, 4, 7, 12, 25, 99])
async def test_slices_are_right_however_far_apart(
    step: int, thickness: int, max_bytes: int, shards: Any, store: Any, face: str
) -> None:
    """With gaps, without, overlapping; in shards that are fetched whole or in pieces."""
    array, values = new(store(), shards)
    start = 5 * (step % 2)
    options: Any = {"start": start, "step": step, "thickness": thickness, "stop": 57, "max_bytes": max_bytes}
    if face == "aio":
        found = [piece async for piece in aio.stream_slices(array, **options)]
    else:
        found = list(stream_slices(array, **options))
    assert [piece.start for piece in found] == list(range(start, 57, step))
    for piece in found:
        np.testing.assert_array_equal(piece.data, values[piece.start : min(piece.start + thickness, 57)])


@pytest.mark.parametrize(("step", "rows"), [(12, 5), (24, 3), (30, 2)])
def test_of_a_shard_the_wanted_chunks_alone_are_read(step: int, rows: int) -> None:
    """Its index once, and the ranges of the chunks that a slice crosses."""
    array, _ = new(Ranges(), chunks=(CHUNK, 8))
    array.store.moved = 0
    assert len(list(stream_slices(array, step=step))) == rows
    index = 16 * SHARD // CHUNK + 4
    assert array.store.moved == rows * (index + CHUNK * 8 * 4)


def test_where_most_of_a_shard_is_wanted_it_is_fetched_whole() -> None:
    """One request for each."""
    array, _ = new(Ranges())
    array.store.calls.clear()
    assert len(list(stream_slices(array, step=4))) == 15
    assert set(array.store.seen("get").values()) == {1}


def test_of_single_chunks_the_wanted_alone_are_read() -> None:
    """As many requests as there are."""
    array, _ = new(Ranges(), None)
    array.store.calls.clear()
    list(stream_slices(array, step=10, thickness=2))
    assert sorted(array.store.seen("get")) == sorted(
        f"c/{row}/{column}" for row in range(0, 30, 5) for column in (0, 1)
    )
