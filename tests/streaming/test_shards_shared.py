"""Shards that several writers, or several moments, have chunks for: merged in turn, and cheaply gathered."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from tests.streaming.spies import AsyncSpy, Spy
from zarrstream import aio, open_store, write_stream
from zarrstream.streaming.codecs.array import ArrayCodec
from zarrstream.streaming.writing.batches import Gather
from zarrstream.streaming.writing.cuts import Piece
from zarrstream.streaming.writing.frontier import Frontier, Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zarr.abc.store import Store

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "awaited": lambda _: AsyncSpy(),
    "local": lambda folder: LocalStore(folder / "a"),
    "sqlite": lambda folder: open_store(f"sqlite:///{folder}/x.db"),
}


def items(part: int, count: int) -> Iterator[Any]:
    """Yield every other chunk."""
    for at in range(part, count, 2):
        yield (at,), np.full(2, at + 1, "i4")


@pytest.mark.parametrize("kind", STORES)
async def test_two_tasks_that_share_shards_lose_nothing(kind: str, tmp_path: Path) -> None:
    """Each merges its chunks into what the other has written."""
    store = STORES[kind](tmp_path)
    array = zarr.create_array(store, shape=(400,), chunks=(2,), shards=(20,), dtype="i4")
    reports = await asyncio.gather(*(aio.write_stream(array, items(part, 200), max_bytes=64) for part in range(2)))
    assert [report.written for report in reports] == [100, 100]
    assert array[::2].tolist() == list(range(1, 201))
    store.close()


@pytest.mark.parametrize("kind", STORES)
def test_two_threads_that_share_shards_lose_nothing(kind: str, tmp_path: Path) -> None:
    """The same for the blocking face, with a handle of its own for each."""
    store = STORES[kind](tmp_path)
    zarr.create_array(store, shape=(200,), chunks=(2,), shards=(20,), dtype="i4")

    def write(part: int) -> None:
        write_stream(zarr.open_array(store, mode="r+"), items(part, 100), max_bytes=64)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert zarr.open_array(store)[::2].tolist() == list(range(1, 101))
    store.close()


def test_a_write_inside_the_source_of_another_does_not_wait_for_it() -> None:
    """A shard is locked while it is merged, and not for as long as a stream lasts."""
    array = zarr.create_array(MemoryStore(), shape=(40,), chunks=(2,), shards=(20,), dtype="i4")

    def outer() -> Iterator[Any]:
        for item in items(0, 20):
            write_stream(array, [(item[0], item[1] * 0)])
            yield item

    assert write_stream(array, outer(), max_bytes=16).written == 10
    assert array[::4].tolist() == list(range(1, 21, 2))


def test_an_older_handle_keeps_what_was_appended() -> None:
    """The last shard is merged: another handle may know of chunks beyond this one's end."""
    store = MemoryStore()
    array = zarr.create_array(store, shape=(12,), chunks=(2,), shards=(8,), dtype="i4")
    array[:] = 1
    old = zarr.open_array(store, mode="r+")
    new = zarr.open_array(store, mode="r+")
    new.resize((16,))
    new[12:16] = 2
    write_stream(old, [((4,), np.full(2, 7, "i4")), ((5,), np.full(2, 7, "i4"))])
    assert zarr.open_array(store, mode="r")[8:].tolist() == [7, 7, 7, 7, 2, 2, 2, 2]


def test_incomplete_shards_are_written_side_by_side() -> None:
    """A source that is not in the order of the shards keeps more than one worker busy."""
    array = zarr.create_array(Spy(), shape=(160, 10), chunks=(1, 10), shards=(4, 10), dtype="i1", compressors=None)
    another = threading.Event()
    met: list[bool] = []

    def meet(operation: str, _: str) -> None:
        if operation == "set" and not met:
            met.append(False)
            met[0] = another.wait(30)
        elif operation == "set":
            another.set()

    array.store.hook = meet
    rows = [4 * shard + row for row in range(4) for shard in range(40)]
    write_stream(array, (((row, 0), np.ones((1, 10), "i1")) for row in rows), concurrency=4, max_bytes=400)
    assert met == [True]
    assert array[...].all()


class Steps(dict[Any, Any]):
    """A dict that counts how often it is gone through."""

    walks = 0

    def items(self) -> Any:
        type(self).walks += 1
        return super().items()


def test_gathering_looks_at_no_shard_that_nothing_came_for() -> None:
    """What is ready is known when its last chunk comes: shards that wait cost nothing."""
    array = zarr.create_array(MemoryStore(), shape=(4000,), chunks=(1,), shards=(4,), dtype="i1", compressors=None)
    gather = Gather(ArrayCodec(array), singly=False, max_bytes=1 << 20)
    gather._coming = Steps()
    for at in range(0, 4000, 4):
        gather.add(Piece((at,), (at // 4,), np.ones(1, "i1"), 1, ()))
        assert not list(gather.ready(hungry=True))
    assert not Steps.walks


def test_the_frontier_holds_what_is_unsettled_alone() -> None:
    """One item that never ends keeps no other in memory, and the frontier stays before it."""
    frontier = Frontier()
    stuck = Item(1, (0,))
    frontier.add(stuck)
    for at in range(1, 1000):
        item = Item(1, (at,))
        frontier.add(item)
        frontier.settle((item,))
    assert frontier.last_index is None
    assert len(frontier._open) == 1
    frontier.settle((stuck,))
    assert frontier.last_index == (999,)


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_strings_count_by_estimate_in_writing_as_in_reading() -> None:
    """One budget is counted in one way."""
    array = zarr.create_array(MemoryStore(), shape=(20_000,), chunks=(1000,), dtype=str)
    codec = ArrayCodec(array)
    grid = codec.grid
    gather = Gather(codec, singly=False, max_bytes=3 * grid.chunk_nbytes)
    for at in range(3):
        assert gather.has_room(0)
        gather.add(Piece((at,), (at,), np.array(["x" * 200] * 1000, object), 8000, ()))
    assert gather.nbytes == 3 * grid.chunk_nbytes == 3 * 1000 * 64
    assert not gather.has_room(0)
