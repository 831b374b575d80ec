"""What looks for few of millions of chunks lets the event loop go on, and tells what it has found meanwhile."""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from tests.streaming.spies import AsyncSpy
from zarrstream import aio, stream_chunks, write_stream
from zarrstream.streaming.engine import pace
from zarrstream.streaming.layout import bitmap as presence
from zarrstream.streaming.layout import grid
from zarrstream.streaming.layout.bitmap import Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNKS = 4000


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each look at the clock take a millisecond, so that ten looks are a stretch."""
    ticks = count()
    monkeypatch.setattr(pace, "monotonic", lambda: next(ticks) / 1000)


def new(store: Any, *, sharded: bool) -> zarr.Array:
    """Make an array of very many chunks, five of which are stored."""
    shards = (20,) if sharded else None
    made = zarr.create_array(store, shape=(CHUNKS,), chunks=(1,), shards=shards, dtype="i4", compressors=None)
    for at in range(0, CHUNKS, CHUNKS // 5):
        made[at] = at + 1
    return made


async def turns_during(work: Callable[[], Any]) -> int:
    """Return how often another task has its turn while something is awaited."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    turns = 0
    await work()
    task.cancel()
    return turns


@pytest.mark.parametrize("store", [MemoryStore, AsyncSpy])
@pytest.mark.parametrize("sharded", [False, True])
async def test_a_filter_that_wants_few_holds_no_loop(sharded: bool, store: Any) -> None:
    """Others have a turn after every stretch."""
    array = new(store(), sharded=sharded)
    asked: list[int] = []
    came: list[tuple[int, ...]] = []

    def wanted(index: tuple[int, ...]) -> bool:
        asked.append(index[0])
        return index[0] in {7, CHUNKS - 7}

    async def work() -> None:
        came.extend([chunk.index async for chunk in aio.stream_chunks(array, filter=wanted)])

    assert await turns_during(work) > CHUNKS // 20
    assert came == [(7,), (CHUNKS - 7,)]
    assert asked == list(range(CHUNKS))


@pytest.mark.parametrize("sharded", [False, True])
async def test_what_is_found_comes_before_all_is_looked_through(sharded: bool) -> None:
    """A chunk does not wait for the next one that is wanted: on both faces."""
    array = new(MemoryStore(), sharded=sharded)
    asked = 0

    def wanted(index: tuple[int, ...]) -> bool:
        nonlocal asked
        asked += 1
        if asked > CHUNKS // 2:  # by now it is under way: the looking may take as long as its reading
            came.wait(0.001)
        return index == (7,)

    came = threading.Event()
    for _ in stream_chunks(array, filter=wanted):
        came.set()
        assert asked < CHUNKS
    asked = 0
    came.clear()
    async for _ in aio.stream_chunks(array, filter=wanted):
        came.set()
        assert asked < CHUNKS


async def test_a_write_whose_filter_wants_few_holds_no_loop() -> None:
    """Of an item with very many chunks, too."""
    array = new(MemoryStore(), sharded=False)
    values = np.arange(CHUNKS, dtype="i4") + 5

    async def work() -> None:
        report = await aio.write_stream(array, [(np.s_[:], values)], filter=lambda index: index == (CHUNKS - 1,))
        assert (report.written, report.skipped) == (1, CHUNKS - 1)

    assert await turns_during(work) > CHUNKS // 20
    assert write_stream(array, [(np.s_[:], values)], filter=lambda index: index[0] % 500 == 0).written == 8


async def test_stored_chunks_outside_the_region_hold_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked through in blocks."""
    monkeypatch.setattr(presence, "_BLOCK", 4)
    array = new(MemoryStore(), sharded=False)
    array[...] = 1

    async def work() -> None:
        stream = aio.stream_chunks(array, include_missing=False, region=np.s_[CHUNKS - 2 :])
        assert [chunk.index async for chunk in stream] == [(CHUNKS - 2,), (CHUNKS - 1,)]

    assert await turns_during(work) > CHUNKS // 64


@pytest.mark.parametrize("counts", [(), (1,), (7,), (3, 5), (2, 3, 4), (1, 1, 9)])
@pytest.mark.parametrize("block", [1, 2, 1 << 16])
def test_what_is_present_is_found_in_c_order(
    counts: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within every part of the grid, and nothing else."""
    monkeypatch.setattr(presence, "_BLOCK", block)
    made = Presence(counts)
    every = list(np.ndindex(counts))
    some = [index for at, index in enumerate(every) if at % 3 != 1]
    for index in some:
        made.add(index)
    for part in _parts(counts):
        found = [index for index in made.within(part) if index is not None]
        inside = [i for i in some if all(low <= at < high for at, (low, high) in zip(i, part, strict=True))]
        assert found == inside
    assert list(grid.odometer([(0, count) for count in counts])) == every


def _parts(counts: tuple[int, ...]) -> Iterator[list[tuple[int, int]]]:
    yield [(0, count) for count in counts]
    yield [(0, 0) for _ in counts]
    yield [(count // 2, count) for count in counts]
    yield [(count // 3, count // 2 + 1) for count in counts]
