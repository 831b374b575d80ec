"""A checkpoint says what is done, is believed only where it belongs, and never more than the store bears out."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from tests.streaming.spies import Spy, filled
from zarrstream import (
    Checkpoint,
    CheckpointLockedError,
    CheckpointMismatchError,
    ChunkWriteError,
    chunk_region,
    stream_chunks,
    write_stream,
)
from zarrstream.streaming.codecs.array import ArrayCodec
from zarrstream.streaming.layout.bitmap import Presence

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(1, 241, dtype="i4").reshape(20, 12)
KINDS: list[dict[str, Any]] = [{}, {"shards": (10, 12)}, {"zarr_format": 2}]


class Placed(Spy):
    """A spy that says where it is."""

    place = "spy://here"


def target(store: Any, **options: Any) -> zarr.Array:
    return zarr.create_array(store, shape=(20, 12), chunks=(5, 4), dtype="i4", fill_value=-1, **options)


def computed(array: zarr.Array, indices: Any, values: np.ndarray = VALUES) -> Any:
    return ((index, values[chunk_region(array, index)]) for index in indices)


@pytest.mark.parametrize("options", KINDS)
def test_resumed_where_it_stopped(options: dict, tmp_path: Path) -> None:
    """Done chunks are skipped and counted; `pending` yields the rest, so that a source computes nothing twice."""
    array = target(tmp_path / "a", **options)
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    everything = list(checkpoint.pending(array))
    assert sorted(everything) == list(np.ndindex(4, 3))
    first = write_stream(array, computed(array, everything[:6]), checkpoint=checkpoint)
    assert (first.written, first.skipped) == (6, 0)
    left = list(checkpoint.pending(array))
    assert left == everything[6:]
    second = write_stream(array, computed(array, everything), checkpoint=Checkpoint(tmp_path / "checkpoint"))
    assert (second.written, second.skipped, second.lost, second.rewritten) == (6, 6, 0, 0)
    assert list(checkpoint.pending(array)) == []
    assert (array[...] == VALUES).all()


@pytest.mark.parametrize("options", KINDS)
def test_written_through_pending(options: dict, tmp_path: Path) -> None:
    """The usual way: the source is made of `pending`, pulled while the checkpoint grows."""
    array = target(tmp_path / "a", **options)
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    report = write_stream(array, computed(array, checkpoint.pending(array)), checkpoint=checkpoint)
    assert (report.written, report.skipped) == (12, 0)
    assert (array[...] == VALUES).all()


def test_an_index_enters_after_the_acknowledgement(tmp_path: Path) -> None:
    """While a chunk is being stored it is not in the record; a chunk whose write failed never is."""
    array = target(Placed())
    path = tmp_path / "checkpoint"

    def look(what: str, key: str) -> None:
        if what != "set":
            return
        recorded = path.read_bytes().splitlines()[1:]
        done = {ordinal for line in recorded for ordinal in ordinals(line)}
        row, column = map(int, key.split("/")[1:])
        assert row * 3 + column not in done
        if key == "c/2/1":
            raise OSError("no")

    array.store.hook = look
    with pytest.raises(ChunkWriteError):
        write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=Checkpoint(path))
    array.store.hook = None
    left = set(Checkpoint(path).pending(array))
    assert (2, 1) in left
    stored = {tuple(map(int, key.split("/")[1:])) for key in array.store._store_dict if key.startswith("c/")}
    assert set(np.ndindex(4, 3)) - left == stored  # what was in flight when it failed is recorded, too


def ordinals(line: bytes) -> list[int]:
    found = []
    for span in line.decode().partition(" *")[0].split()[1:]:
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@pytest.mark.parametrize("options", KINDS)
def test_lost_chunks_are_pending_again(options: dict, tmp_path: Path) -> None:
    """A chunk deleted behind our back is written again, and the report counts it."""
    array = target(tmp_path / "a", **options)
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=checkpoint)
    key = "1.2" if options.get("zarr_format") == 2 else "c/1/0" if options else "c/1/2"
    (tmp_path / "a" / key).unlink()
    lost = 6 if "shards" in options else 1
    assert len(list(checkpoint.pending(array))) == lost
    report = write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=checkpoint)
    assert (report.written, report.skipped, report.lost) == (lost, 12 - lost, lost)
    assert (array[...] == VALUES).all()


def test_an_array_made_again_is_pending_again(tmp_path: Path) -> None:
    """`overwrite=True` empties the array: what the checkpoint knew is written anew."""
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    array = target(tmp_path / "a")
    write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=checkpoint)
    array = target(tmp_path / "a", overwrite=True)
    assert len(list(checkpoint.pending(array))) == 12
    report = write_stream(array, computed(array, checkpoint.pending(array)), checkpoint=checkpoint)
    assert (report.written, report.lost) == (12, 12)
    assert (array[...] == VALUES).all()


def test_elided_chunks_are_done(tmp_path: Path) -> None:
    """A chunk that equals the fill value has no key and is done; where a key turns up, it is pending again."""
    values = VALUES.copy()
    values[5:10, 4:8] = -1
    array = target(tmp_path / "a")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    write_stream(array, computed(array, np.ndindex(4, 3), values), checkpoint=checkpoint)
    assert not (tmp_path / "a/c/1/1").exists()
    assert list(checkpoint.pending(array)) == []
    array[5:10, 4:8] = 5
    assert list(checkpoint.pending(array)) == [(1, 1)]
    write_stream(array, computed(array, checkpoint.pending(array), values), checkpoint=checkpoint)
    assert (array[...] == values).all()


def test_what_was_in_flight_is_counted(tmp_path: Path) -> None:
    """Chunks that are in the store and not in the record are written again and counted."""
    array = target(tmp_path / "a")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=checkpoint)
    lines = (tmp_path / "checkpoint").read_bytes().splitlines(keepends=True)
    (tmp_path / "checkpoint").write_bytes(
        lines[0].replace(b'"zarrstream-checkpoint": 2', b'"zarrstream-checkpoint": 1') + b"s 0-8\n"
    )
    report = write_stream(array, computed(array, checkpoint.pending(array)), checkpoint=checkpoint)
    assert (report.written, report.rewritten) == (3, 3)


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    """A line without its end counts for nothing, wherever it was torn, and the next writer cuts it away."""
    array = target(tmp_path / "a")
    path = tmp_path / "checkpoint"
    write_stream(array, computed(array, list(np.ndindex(4, 3))[:4]), checkpoint=Checkpoint(path))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        complete = whole[: whole[:cut].rfind(b"\n") + 1].splitlines()[1:]
        done = {ordinal for line in complete for ordinal in ordinals(line)}
        assert len(list(Checkpoint(path).pending(array))) == 12 - len(done)
    path.write_bytes(whole + b"s 5-1")
    write_stream(array, [((3, 2), VALUES[15:, 8:])], checkpoint=Checkpoint(path))
    assert set(Checkpoint(path).pending(array)) == set(np.ndindex(4, 3)) - {(0, 0), (0, 1), (0, 2), (1, 0), (3, 2)}


def test_it_is_believed_only_where_it_belongs(tmp_path: Path) -> None:
    """Another array, path, grid, type, fill value, codec, place or token is refused, with what differs."""
    path = tmp_path / "checkpoint"
    array = target(tmp_path / "g", name="a")
    write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=Checkpoint(path, token={"v": 1}))
    assert list(Checkpoint(path, token={"v": 1}).pending(array)) == []
    create = zarr.create_array
    base: dict[str, Any] = {"shape": (20, 12), "chunks": (5, 4), "dtype": "i4", "fill_value": -1, "overwrite": True}
    others = {
        "chunks": {"chunks": (5, 6)},
        "shards": {"shards": (10, 8)},
        "data_type": {"dtype": "i8"},
        "fill_value": {"fill_value": 0},
        "codecs": {"compressors": None},
    }
    for name, change in others.items():
        other = create(tmp_path / "g", name="a", **{**base, **change})
        with pytest.raises(CheckpointMismatchError, match=name):
            write_stream(other, [], checkpoint=Checkpoint(path, token={"v": 1}))
    array = create(tmp_path / "g", name="a", **base)
    with pytest.raises(CheckpointMismatchError, match="token"):
        list(Checkpoint(path, token={"v": 2}).pending(array))
    with pytest.raises(CheckpointMismatchError, match="path"):
        list(Checkpoint(path, token={"v": 1}).pending(create(tmp_path / "g", name="b", **base)))
    shutil.copytree(tmp_path / "g", tmp_path / "copy")
    with pytest.raises(CheckpointMismatchError, match="path differs"):
        list(Checkpoint(path, token={"v": 1}).pending(zarr.open_array(tmp_path / "copy/a")))
    path.write_text("dear diary\n")
    with pytest.raises(CheckpointMismatchError, match="not a checkpoint"):
        list(Checkpoint(path).pending(array))


def test_a_store_without_a_place_is_refused(tmp_path: Path) -> None:
    """What no other process could open again is not checkpointed."""
    for store in ({}, MemoryStore()):
        array = target(store)
        with pytest.raises(CheckpointMismatchError, match="no place"):
            write_stream(array, [], checkpoint=Checkpoint(tmp_path / "c"))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second writer is refused while the first writes; afterwards the lock is free."""
    array = target(tmp_path / "a")
    path = tmp_path / "checkpoint"

    def source() -> Any:
        yield (0, 0), VALUES[:5, :4]
        with pytest.raises(CheckpointLockedError):
            write_stream(array, [], checkpoint=Checkpoint(path))
        yield (0, 1), VALUES[:5, 4:8]

    assert write_stream(array, source(), checkpoint=Checkpoint(path)).written == 2
    assert write_stream(array, [], checkpoint=Checkpoint(path)).written == 0


def test_a_store_that_publishes_is_flushed_before_it_is_believed(tmp_path: Path) -> None:
    """Where writes become durable only at `flush()`, nothing is recorded before it."""

    class Publishing(Placed):
        durable_on_write = False

        def flush(self) -> None:
            published[:] = list(self._store_dict)

    published: list[str] = []
    array = target(Publishing())
    path = tmp_path / "checkpoint"

    def source() -> Any:
        for index in np.ndindex(4, 3):
            done = {ordinal for line in path.read_bytes().splitlines()[1:] for ordinal in ordinals(line)}
            assert all(f"c/{at // 3}/{at % 3}" in published for at in done)
            yield index, VALUES[chunk_region(array, index)]

    write_stream(array, source(), checkpoint=Checkpoint(path))
    assert list(Checkpoint(path).pending(array)) == []
    assert len([key for key in published if key.startswith("c/")]) == 12


def test_records_of_many_chunks_are_small(tmp_path: Path) -> None:
    """Two bits for each chunk in memory, ranges in the file."""
    presence = Presence((1000, 1000))
    presence.assign(3, 999_999, present=True)
    assert len(presence) == 999_996
    presence.assign(10, 12, present=False)
    assert (0, 9) in presence
    assert (0, 10) not in presence
    assert (0, 12) in presence
    assert next(iter(presence.positions())) == 3
    array = target(tmp_path / "a")
    write_stream(array, computed(array, np.ndindex(4, 3)), checkpoint=Checkpoint(tmp_path / "c"), concurrency=1)
    assert len((tmp_path / "c").read_bytes().splitlines()) <= 13
    assert ArrayCodec(array).object_at("c/1/2") == (1, 2)
    assert ArrayCodec(array).object_at("c/1/2.abc.partial") is None


def test_reading_and_checkpointing_from_a_stream(tmp_path: Path) -> None:
    """A stream of another array is a source like any."""
    origin, values = filled(LocalStore(tmp_path / "origin"))
    array = target(tmp_path / "a")
    report = write_stream(array, stream_chunks(origin), checkpoint=Checkpoint(tmp_path / "c"))
    assert report.written == 12
    assert (array[...] == values).all()
