"""Parts of chunks and checkpoints: each is merged once, and none is lost, wherever a run was killed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.streaming.spies import Spy
from tests.streaming.test_partial import SHAPE, boxes, expected, new, numbered
from tests.streaming.test_told import every_face, every_layout, written
from zarrstream import Checkpoint, write_stream
from zarrstream.errors import CheckpointMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def day(array: zarr.Array, number: int, checkpoint: Checkpoint, **options: Any) -> Any:
    """Append a row, as a daily job does."""
    if array.shape[0] <= number:
        array.resize((number + 1, *array.shape[1:]))
    data = np.full((1, *array.shape[1:]), number + 1, "i4")
    return write_stream(array, [(np.s_[number : number + 1], data)], checkpoint=checkpoint, partial="merge", **options)


@every_layout
def test_a_day_is_appended_every_day_with_one_checkpoint(sharded: bool, tmp_path: Path) -> None:
    """Each is merged once; the same job on the same day again does nothing, and of another day nothing is lost."""
    array = zarr.create_array(
        str(tmp_path / "a"), shape=(0, 6), chunks=(4, 3), shards=(4, 6) if sharded else None, dtype="i4"
    )
    for number in range(10):
        array = zarr.open_array(str(tmp_path / "a"), mode="r+")
        checkpoint = Checkpoint(tmp_path / "c")
        assert (day(array, number, checkpoint).written, day(array, number, checkpoint).skipped) == (2, 2)
        assert array[:, 0].tolist() == list(range(1, number + 2))
        assert checkpoint.done == array.nchunks  # an array's last chunk is done with what there is of it
    assert day(array, 3, Checkpoint(tmp_path / "c")).skipped == 2


@every_layout
def test_days_of_an_array_that_has_room_are_not_lost(sharded: bool, tmp_path: Path) -> None:
    """A chunk of which a part was written is pending, and that part is not: the next day is written."""
    array = zarr.create_array(
        str(tmp_path / "a"), shape=(8, 6), chunks=(4, 3), shards=(4, 6) if sharded else None, dtype="i4"
    )
    checkpoint = Checkpoint(tmp_path / "c")
    for number in range(8):
        assert day(array, number, checkpoint).written == 2
        assert day(array, number, checkpoint).skipped == 2
        assert checkpoint.done == (number + 1) // 4 * 2
    assert array[:, 0].tolist() == list(range(1, 9))


class Killed(BaseException):
    """The end of a process, as far as it can be had in one."""


@pytest.mark.parametrize("seed", range(30))
@every_layout
def test_a_resumed_run_ends_as_one_that_was_not_killed(sharded: bool, seed: int, tmp_path: Path) -> None:
    """Whatever parts come in whatever order, and wherever it was killed, several times."""
    chance = random.Random(seed)  # noqa: S311  # it chooses what a test writes
    array = new(zarr.storage.LocalStore(tmp_path / "a"), sharded=sharded)
    regions = boxes(seed, 14)
    if seed % 2:
        regions.sort(key=lambda region: region[0].start)
        regions = [(slice(a.start, min(a.start + 2, 11)), b) for a, b in regions]
    budget = chance.choice([1, 200, 1 << 20])

    def killed(at: int) -> Iterator[Any]:
        for number, item in enumerate(numbered(regions)):
            if number == at:
                raise Killed
            yield item

    for at in sorted(chance.choices(range(14), k=3)):
        with pytest.raises(Killed):
            write_stream(array, killed(at), checkpoint=Checkpoint(tmp_path / "c"), partial="merge", max_bytes=budget)
    report = write_stream(
        array, numbered(regions), checkpoint=Checkpoint(tmp_path / "c"), partial="merge", max_bytes=budget
    )
    np.testing.assert_array_equal(array[...], expected(regions))
    assert report.failed == 0


@pytest.mark.parametrize("seed", range(30))
@every_layout
def test_an_array_that_grows_is_resumed_wherever_it_was_killed(sharded: bool, seed: int, tmp_path: Path) -> None:
    """Each time it has grown another source has parts of what is new, several for the same positions."""
    chance = random.Random(seed)  # noqa: S311  # it chooses what a test writes
    array = new(zarr.storage.LocalStore(tmp_path / "a"), sharded=sharded)
    wanted, checkpoint = np.ones(SHAPE, "i4"), Checkpoint(tmp_path / "c")
    for turn in range(3):
        first = len(wanted)
        wanted = np.concatenate([wanted, np.zeros((chance.randrange(1, 5), SHAPE[1]), "i4")])
        array.resize(wanted.shape)
        items = []
        for number in range(chance.randrange(1, 8)):
            start = chance.randrange(first, len(wanted))
            rows, columns = slice(start, chance.randrange(start, len(wanted)) + 1), boxes(chance.randrange(99), 1)[0][1]
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            items.append(((rows, columns), np.full(shape, 10 * turn + number, "i4")))
            wanted[rows, columns] = 10 * turn + number
        options: Any = {"checkpoint": checkpoint, "partial": "merge", "max_bytes": chance.choice([1, 150, 1 << 20])}

        def killed(at: int, items: list[Any] = items) -> Iterator[Any]:
            yield from items[:at]
            raise Killed

        for at in sorted(chance.choices(range(len(items) + 1), k=2)):
            with pytest.raises(Killed):
                write_stream(array, killed(at), **options)
        write_stream(array, items, **options)
        np.testing.assert_array_equal(array[...], wanted)


@every_layout
@every_face
async def test_a_resumed_run_merges_nothing_twice(face: str, sharded: bool, tmp_path: Path) -> None:
    """What was acknowledged is neither read nor written again."""
    store = Spy()
    array = new(store, sharded=sharded)
    checkpoint = Checkpoint(tmp_path / "c", place="here")
    regions = [np.s_[row : row + 1, 0:7] for row in (0, 1, 4, 8)]
    assert (await written(face, array, numbered(regions), checkpoint=checkpoint, partial="merge")).written == 12
    store.calls.clear()
    report = await written(face, array, numbered(regions), checkpoint=checkpoint, partial="merge")
    assert (report.written, report.skipped) == (0, 12)
    assert not store.seen("get")
    assert not store.seen("set")
    more = [*regions, np.s_[2:4, 0:7]]
    report = await written(face, array, numbered(more), checkpoint=checkpoint, partial="merge")
    assert (report.written, report.skipped) == (3, 12)
    assert (0, 0) not in list(checkpoint.pending(array))
    np.testing.assert_array_equal(array[...], expected(more))


def test_a_part_whose_chunk_is_gone_is_merged_again(tmp_path: Path) -> None:
    """The listing knows better than the record."""
    store = Spy()
    array = new(store)
    checkpoint = Checkpoint(tmp_path / "c", place="here")
    regions = [np.s_[0:2, 0:3]]
    write_stream(array, numbered(regions), checkpoint=checkpoint, partial="merge")
    del store._store_dict["c/0/0"]
    assert write_stream(array, numbered(regions), checkpoint=checkpoint, partial="merge").written == 1
    assert array[0:2, 0:3].tolist() == [[2] * 3] * 2


def test_a_damaged_line_of_parts_is_refused(tmp_path: Path) -> None:
    """It is no different from other lines."""
    array = new(Spy())
    path = tmp_path / "c"
    write_stream(array, numbered([np.s_[0:2, 0:3]]), checkpoint=Checkpoint(path, place="here"), partial="merge")
    good = path.read_bytes()
    assert b"\nm 0@0:2,0:3 *" in good
    for damaged in (b"m 0@0:3,0:3 *", b"m 0@0:2 *", b"m 99@0:2,0:3 *", b"m 0@0:9,0:3 *", b"m 0@ *", b"m *"):
        path.write_bytes(good.replace(b"m 0@0:2,0:3 *", damaged))
        with pytest.raises(CheckpointMismatchError, match="damaged"):
            list(Checkpoint(path, place="here").pending(array))
    for cut in range(good.index(b"\nm ") + 1, len(good)):
        path.write_bytes(good[:cut])
        assert len(list(Checkpoint(path, place="here").pending(array))) == 9


@pytest.mark.parametrize("kind", ["failed", "killed"])
@every_layout
def test_a_part_that_failed_is_not_done_by_those_around_it(sharded: bool, kind: str, tmp_path: Path) -> None:
    """What was stored before it and what comes behind it make a whole chunk: it is written again all the same."""
    store = Spy()
    array = zarr.create_array(store, shape=(6,), chunks=(8,), shards=(8,) if sharded else None, dtype="i4")
    checkpoint = Checkpoint(tmp_path / "c", place="here")
    write_stream(array, [(np.s_[0:6], np.full(6, 1, "i4"))], checkpoint=checkpoint)
    array.resize(8)
    items = [(np.s_[5:7], np.full(2, 2, "i4")), (np.s_[6:8], np.full(2, 3, "i4"))]
    failures = iter([OSError("a hiccup") if kind == "failed" else Killed()])

    def fail(operation: str, _: str) -> None:
        if operation == "get" and (error := next(failures, None)) is not None:
            raise error

    store.hook = fail
    options: Any = {"checkpoint": checkpoint, "partial": "merge", "max_bytes": 1}
    if kind == "failed":
        assert write_stream(array, items, on_error="skip", **options).failed == 1
        assert list(checkpoint.pending(array)) == [(0,)]
    else:
        store.hook = None

        def killed() -> Iterator[Any]:
            yield items[0]
            raise Killed

        with pytest.raises(Killed):
            write_stream(array, killed(), **options)
    assert write_stream(array, items, **options).failed == 0
    assert array[...].tolist() == [1, 1, 1, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("seed", range(20))
@every_layout
def test_a_growing_array_is_whole_whatever_failed_on_the_way(sharded: bool, seed: int, tmp_path: Path) -> None:
    """Runs that skip what fails are repeated until nothing does."""
    chance = random.Random(seed)  # noqa: S311  # it chooses what fails
    store = Spy()
    array = new(store, sharded=sharded)
    wanted, checkpoint = np.ones(SHAPE, "i4"), Checkpoint(tmp_path / "c", place="here")

    def hiccup(*_: Any) -> None:
        if runs < 4 and chance.random() < 0.3:
            raise OSError("a hiccup")

    for turn in range(3):
        first = len(wanted)
        wanted = np.concatenate([wanted, np.zeros((chance.randrange(1, 5), SHAPE[1]), "i4")])
        array.resize(wanted.shape)
        items = []
        for number in range(chance.randrange(1, 8)):
            # Also over the last row that there was, where that has its chunk in common with the new ones.
            start = chance.randrange(first - bool(first % 4), len(wanted))
            stop = max(chance.randrange(start, len(wanted)), first) + 1
            columns = boxes(chance.randrange(99), 1)[0][1]
            data = np.full((stop - start, columns.stop - columns.start), 10 * turn + number + 2, "i4")
            items.append(((slice(start, stop), columns), data))
            wanted[start:stop, columns] = data
        runs, failed = 0, 1
        options: Any = {"checkpoint": checkpoint, "partial": "merge", "max_bytes": chance.choice([1, 150, 1 << 20])}
        while failed:
            runs, store.hook = runs + 1, hiccup
            failed = write_stream(array, items, on_error=lambda _: None, **options).failed
            store.hook = None
        np.testing.assert_array_equal(array[...], wanted)
