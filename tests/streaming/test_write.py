"""What `write_stream` takes, in which order it stores, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from tests.streaming.spies import AsyncSpy, Spy, filled
from zarrstream import Chunk, Progress, UnalignedChunkError, WriteReport, stream_chunks, write_stream

if TYPE_CHECKING:
    from pathlib import Path

STORES = [Spy, AsyncSpy]
SHARDED = {"shape": (20, 16), "shards": (10, 8)}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("options", [{}, SHARDED, {"zarr_format": 2}])
def test_every_form_of_item(store: type, options: dict) -> None:
    """Chunks, (index, data) and (region, data) of one or many chunks, all in one source."""
    array, values = filled(store(), **options)
    values = values + 1000
    rows = values.shape[1]
    items = [
        Chunk((99, 99), (slice(0, 5), slice(0, 4)), values[:5, :4]),  # the region decides
        ((0, 1), values[:5, 4:8]),
        ((np.int64(0), np.int64(2)), values[:5, 8:12]),
        ((slice(0, 5), slice(8, None)), values[:5, 8:]),
        ((slice(5, 20), slice(None)), values[5:]),
    ]
    report = write_stream(array, items)
    assert (array[...] == values).all()
    assert report.last_index == (3, rows // 4 - 1)
    assert report.failed == report.skipped == 0
    assert report.seconds > 0
    assert isinstance(report, WriteReport)


@pytest.mark.parametrize("store", STORES)
def test_shards_are_gathered(store: type) -> None:
    """Inner chunks of one shard become one write; an incomplete one is merged with what is stored, never dropped."""
    array, values = filled(store(), **SHARDED)
    changed = values + 1
    write_stream(array, ((index, changed[5 * index[0] :, 4 * index[1] :][:5, :4]) for index in np.ndindex(4, 4)))
    assert array.store.seen("set") == {f"c/{i}/{j}": 1 for i in (0, 1) for j in (0, 1)}
    assert not array.store.seen("get")
    array.store.calls.clear()
    write_stream(array, [((1, 1), np.zeros((5, 4), dtype="i4")), ((3, 3), np.full((5, 4), -1, dtype="i4"))])
    changed[5:10, 4:8] = 0
    changed[15:20, 12:16] = -1
    assert (array[...] == changed).all()
    assert array.store.seen("set") == {"c/0/0": 1, "c/1/1": 1}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("options", [{}, SHARDED])
@pytest.mark.parametrize("max_bytes", [1, 1 << 20])
def test_items_for_one_chunk_never_race(store: type, options: dict, max_bytes: int) -> None:
    """Of many items for one chunk the last wins, however they are gathered."""
    array, _ = filled(store(), **options)
    items = [((0, turn % 2), np.full((5, 4), turn, dtype="i4")) for turn in range(40)]
    report = write_stream(array, items, max_bytes=max_bytes, concurrency=4)
    assert (array[:5, :4] == 38).all()
    assert (array[:5, 4:8] == 39).all()
    assert report.written == 40


def test_data_are_copied() -> None:
    """A source may fill one buffer again and again."""
    array, values = filled(Spy())
    buffer = np.empty((5, 4), dtype="i4")

    def source() -> Any:
        for index in np.ndindex(4, 3):
            buffer[...] = values[5 * index[0] :, 4 * index[1] :][:5, :4] * 2
            yield index, buffer
            buffer[...] = 0

    write_stream(array, source())
    assert (array[...] == values * 2).all()


def test_filter_and_progress() -> None:
    """Filtered chunks are counted as skipped; both callables hear of all in the caller's thread."""
    array, values = filled(Spy())
    heard: list[Progress] = []
    also: list[Progress] = []
    items = [(chunk.region, chunk.data + 1) for chunk in stream_chunks(array)]
    report = write_stream(
        array, items, filter=lambda index: index[0] == 1, progress=heard.append, checkpoint=also.append
    )
    assert (report.written, report.skipped) == (3, 9)
    assert (array[5:10] == values[5:10] + 1).all()
    assert (array[10:] == values[10:]).all()
    assert heard == also
    last = heard[-1]
    assert (last.done, last.total, last.skipped, last.last_index) == (3, 12, 9, (3, 2))
    assert last.nbytes == report.nbytes == 3 * 5 * 4 * 4


def test_last_index_is_a_frontier() -> None:
    """It never passes an item that is not settled."""
    array, values = filled(Spy(), shape=(40, 4), chunks=(1, 4))
    order = {(row, 0): row for row in range(40)}
    acknowledged: set[tuple[int, ...]] = set()
    store_many = array.store.set_sync

    def set_sync(key: str, value: Any) -> None:
        store_many(key, value)
        acknowledged.add((int(key.split("/")[1]), 0))

    array.store.__class__ = type(
        "Watched", (Spy,), {"set_sync": lambda _, key, value: set_sync(key, value), "set": Spy.set}
    )

    def check(now: Progress) -> None:
        if now.last_index is not None:
            assert all(index in acknowledged for index, at in order.items() if at <= order[now.last_index])

    write_stream(array, [((row, 0), values[row : row + 1] + 1) for row in range(40)], concurrency=3, progress=check)


@pytest.mark.parametrize("store", STORES)
def test_a_failing_source_loses_nothing_that_it_yielded(store: type) -> None:
    """What the source yielded before it failed is written, and its error is raised."""
    array, values = filled(store(), **SHARDED)

    def source() -> Any:
        yield (0, 0), values[:5, :4] + 1
        yield (2, 2), values[10:15, 8:12] + 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_stream(array, source())
    assert (array[:5, :4] == values[:5, :4] + 1).all()
    assert (array[10:15, 8:12] == values[10:15, 8:12] + 1).all()
    assert (array[5:10] == values[5:10]).all()


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        (((slice(1, 5), slice(0, 4)), np.zeros((4, 4), "i4")), UnalignedChunkError, "multiples of the chunk shape"),
        (((slice(0, 4), slice(0, 4)), np.zeros((4, 4), "i4")), UnalignedChunkError, "multiples"),
        (((slice(0, 25), slice(0, 4)), np.zeros((25, 4), "i4")), ValueError, "not a part"),
        (((0, 0), np.zeros((4, 4), "i4")), ValueError, r"shape \(5, 4\)"),
        (((0, 0), np.zeros((5, 4), "i8")), TypeError, "astype"),
        (((4, 0), np.zeros((5, 4), "i4")), ValueError, "grid"),
        (((0,), np.zeros((5, 4), "i4")), ValueError, "grid"),
        ((("a", "b"), np.zeros((5, 4), "i4")), TypeError, "neither an index"),
        (np.zeros((5, 4)), TypeError, "a source yields"),
    ],
)
def test_bad_items_are_refused_with_the_remedy(item: Any, error: type[Exception], words: str) -> None:
    """A region off the grid, a wrong shape or type: refused, and nothing is written after it."""
    array, values = filled(Spy())
    with pytest.raises(error, match=words):
        write_stream(array, [item])
    assert (array[...] == values).all()


def test_byte_order_is_no_difference() -> None:
    """Data of the other byte order are taken."""
    array, values = filled(Spy())
    write_stream(array, [((slice(0, 20), slice(0, 12)), (values + 1).astype(">i4"))])
    assert (array[...] == values + 1).all()


def test_read_only_targets_are_refused(tmp_path: Path) -> None:
    """A read-only array is refused before the source is touched."""
    filled(LocalStore(tmp_path))
    with pytest.raises(ValueError, match=r"read-only.*r\+"):
        write_stream(zarr.open_array(tmp_path, mode="r"), [])
    with pytest.raises(TypeError, match="Checkpoint"):
        write_stream(filled(MemoryStore())[0], [], checkpoint=str(tmp_path / "c"))  # type: ignore[arg-type]


def test_empty_sources_and_zero_dimensions() -> None:
    """Nothing in, nothing done; and an array without dimensions takes its one chunk."""
    array, _ = filled(Spy())
    assert write_stream(array, []).written == 0
    scalar = zarr.create_array({}, shape=(), dtype="i4")
    assert write_stream(scalar, [((), np.array(5, dtype="i4"))]).written == 1
    assert scalar[...] == 5


KILLED = """
import os, signal, sys
import numpy as np, zarr
from zarrstream.streaming.transport.files import FileTransport
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from zarrstream import write_stream
write_stream(zarr.open_array(sys.argv[1], mode="r+"), [((0, 0), np.ones((5, 4), "i4"))])
"""


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    """A killed local write leaves a file that no chunk key has, and the next write on the array sweeps it."""
    array, values = filled(LocalStore(tmp_path))
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert child.returncode == -9
    [left] = [path.name for path in tmp_path.iterdir() if path.name.startswith(".zarrstream-")]
    assert (array[...] == values).all()
    alive = left.replace(f"-{child.returncode}-", "-").split("-")
    mine = tmp_path / "-".join([*alive[:2], "1", *alive[3:]])  # process 1 lives
    mine.touch()
    write_stream(array, [((0, 0), values[:5, :4])])
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".zarrstream-")] == [mine]
