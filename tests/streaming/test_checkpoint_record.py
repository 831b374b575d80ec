"""A checkpoint's record is believed for what was truly recorded, follows its array, and compares by value."""

from __future__ import annotations

import asyncio
import enum
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from zarrstream import Checkpoint, CheckpointLockedError, CheckpointMismatchError, chunk_region, write_stream
from zarrstream.concurrency.file_lock import FileLock
from zarrstream.streaming.writing.record import read_log

if TYPE_CHECKING:
    from pathlib import Path


class Colour(enum.Enum):
    """A value with a name."""

    RED = 1


def made(folder: Path, **options: Any) -> zarr.Array:
    base: dict[str, Any] = {"shape": (40,), "chunks": (2,), "dtype": "i4", "fill_value": -1}
    return zarr.create_array(folder, **{**base, **options})


def items(indices: Any, value: int = 1) -> Any:
    return [((i,), np.full(2, value, "i4")) for i in indices]


@pytest.mark.parametrize(
    "damage", [b"s 0-100\n", b"\xff\xfe\n", b"\n", b"s 1,2\n", b"<<<<<<< HEAD\n", b"x 15\n", b"\0\0\0 17\n", b"s 5-1\n"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_line_is_refused(damage: bytes, version: int, tmp_path: Path) -> None:
    """The error names the file, the line and a remedy that loses nothing."""
    array, path = made(tmp_path / "a"), tmp_path / "c"
    write_stream(array, items(range(3)), checkpoint=Checkpoint(path))
    head = path.read_bytes().splitlines(keepends=True)[0].replace(b": 2, ", b": %d, " % version, 1)
    path.write_bytes(head + damage)
    with pytest.raises(CheckpointMismatchError, match=r"line 2 of the checkpoint '.*' is damaged.*remove it to write"):
        list(Checkpoint(path).pending(array))
    with pytest.raises(CheckpointMismatchError, match="line 2"):
        write_stream(array, [], checkpoint=Checkpoint(path))


HEAD = b'{"zarrstream-checkpoint": 2, "shape": [40], "chunks": [2]}\n'


def lines(*contents: tuple[str, str]) -> bytes:
    import zlib

    from zarrstream.streaming.writing.record import line

    data, checksum = HEAD, zlib.crc32(HEAD)
    for kind, content in contents:
        text, checksum = line(kind, content, checksum)
        data += text
    return data


WHOLE = lines(("s", "0-3 7"), ("e", "8 10-12"), ("p", "2"), ("n", "[50]"), ("s", "24"))
#: What is done after each line.
DONE = [set(), {0, 1, 2, 3, 7}, {0, 1, 2, 3, 7, 8, 10, 11, 12}, {0, 1, 3, 7, 8, 10, 11, 12}]
DONE += [DONE[-1], DONE[-1] | {24}]


def done_in(data: bytes) -> set[int]:
    log = read_log(data, "c")
    return set() if log is None else set(np.flatnonzero(log.state).tolist())


def test_any_cut_leaves_what_whole_lines_say() -> None:
    """Wherever a kill tears the file, the lines before are believed, and nothing else."""
    for cut in range(len(WHOLE) + 1):
        assert done_in(WHOLE[:cut]) == DONE[max(0, WHOLE[:cut].count(b"\n") - 1)]


@settings(max_examples=300, deadline=None)
@given(st.integers(len(HEAD), len(WHOLE) - 2), st.integers(0, 255))
def test_any_other_byte_is_refused_or_tells_the_truth(at: int, byte: int) -> None:
    """A flipped byte of any line is found by the checksum of the whole file."""
    data = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    if data != WHOLE:
        with pytest.raises(CheckpointMismatchError, match="damaged"):
            read_log(data, "c")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_line_that_is_lost_or_doubled_is_refused(data: st.DataObject) -> None:
    """Lines are bound to all before them, so that none can go, move or come twice unseen."""
    parts = WHOLE.splitlines(keepends=True)
    at = data.draw(st.integers(1, len(parts) - 2))
    for changed in (parts[:at] + parts[at + 1 :], [*parts[: at + 1], *parts[at:]]):
        with pytest.raises(CheckpointMismatchError, match="damaged"):
            read_log(b"".join(changed), "c")


@pytest.mark.parametrize("shards", [None, (8,)])
def test_it_follows_an_array_that_grows_and_shrinks(shards: tuple[int] | None, tmp_path: Path) -> None:
    """What is new is pending, and a last chunk that reaches further; what was done stays done."""
    array = made(tmp_path / "a", shape=(15,), chunks=(2,), **({"shards": shards} if shards else {}))
    checkpoint = Checkpoint(tmp_path / "c")
    data = np.arange(100, dtype="i4")

    def write() -> list[int]:
        left = [index[0] for index in checkpoint.pending(array)]
        write_stream(array, [((i,), data[2 * i : min(2 * i + 2, array.shape[0])]) for i in left], checkpoint=checkpoint)
        assert list(checkpoint.pending(array)) == []
        assert (array[...] == data[: array.shape[0]]).all()
        return left

    assert write() == list(range(8))
    array.resize((21,))
    assert write() == [7, 8, 9, 10]
    array.resize((10,))
    assert write() == []
    array.resize((14,))
    assert write() == [5, 6]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5))
def test_any_sequence_of_kills_and_sizes_ends_with_every_chunk_right(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]]
) -> None:
    """Whatever size the array takes, and after however many chunks each run ends, the last one makes it whole."""
    folder = tmp_path_factory.mktemp("grown")
    values = np.arange(1, 82, dtype="i4").reshape(9, 9)
    array = zarr.create_array(folder / "a", shape=(5, 5), chunks=(2, 3), dtype="i4", fill_value=0)
    checkpoint = Checkpoint(folder / "c")
    for rows, columns, most in steps:
        array.resize((rows, columns))
        for stop in (most, None):
            left = list(checkpoint.pending(array))[:stop]
            regions = [chunk_region(array, index) for index in left]
            write_stream(array, [(region, values[region]) for region in regions], checkpoint=checkpoint)
        assert (array[...] == values[:rows, :columns]).all()


def test_a_second_item_takes_the_first_one_back(tmp_path: Path) -> None:
    """A resumed run keeps the last item of each chunk, as an undisturbed one does."""
    array, checkpoint = made(tmp_path / "a", shape=(10,)), Checkpoint(tmp_path / "c")

    def source(stop: bool) -> Any:  # whether it breaks
        yield from items(range(5), 1)
        if stop:
            raise ConnectionError("the source broke")
        yield from items(range(5), 2)

    with pytest.raises(ConnectionError):
        write_stream(array, source(True), checkpoint=checkpoint)
    report = write_stream(array, source(False), checkpoint=checkpoint)
    assert (report.skipped, report.written) == (5, 5)
    assert (array[...] == 2).all()
    assert list(checkpoint.pending(array)) == []


def test_a_token_is_compared_by_value(tmp_path: Path) -> None:
    """Long arrays that differ in the middle are two tokens; what has no value of its own is refused at once."""
    array, weights = made(tmp_path / "a"), np.linspace(0, 1, 5000)
    other = weights.copy()
    other[2500] = 9
    tokens = [weights, {"w": [1, (2, 3)], "n": float("nan")}, Colour.RED, b"x", tmp_path, np.int64(3), 1.5, None]
    for number, token in enumerate(tokens):
        path = tmp_path / f"c{number}"
        write_stream(array, items([0]), checkpoint=Checkpoint(path, token=token))
        assert len(list(Checkpoint(path, token=token).pending(array))) == 19
        with pytest.raises(CheckpointMismatchError, match="token"):
            list(Checkpoint(path, token=other).pending(array))
    for bad in ({"a", "b"}, object(), len, np.array([object()]), {"deep": [set()]}):
        with pytest.raises(TypeError, match="compared by value"):
            Checkpoint(tmp_path / "c", token=bad)


def test_a_store_that_cannot_be_known_is_named(tmp_path: Path) -> None:
    """`place=` names it; another name is another store."""
    array = zarr.create_array(MemoryStore(), shape=(40,), chunks=(2,), dtype="i4")
    with pytest.raises(CheckpointMismatchError, match=r"no place.*open_store.*`place`.*Checkpoint\(path, place="):
        list(Checkpoint(tmp_path / "c").pending(array))
    write_stream(array, items(range(3)), checkpoint=Checkpoint(tmp_path / "c", place="mine"))
    assert len(Checkpoint(tmp_path / "c", place="mine").pending(array)) == 17
    with pytest.raises(CheckpointMismatchError, match="place differs"):
        list(Checkpoint(tmp_path / "c", place="yours").pending(array))


def test_an_array_by_its_group_is_the_same_array(tmp_path: Path) -> None:
    """Opened by its own path or by its group's, an array has one checkpoint."""
    group = zarr.open_group(tmp_path / "g", mode="w")
    array = group.create_array("x", shape=(40,), chunks=(2,), dtype="i4")
    write_stream(array, items(range(3)), checkpoint=Checkpoint(tmp_path / "c"))
    assert len(list(Checkpoint(tmp_path / "c").pending(zarr.open_array(tmp_path / "g/x")))) == 17


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    """`len`, `done`, `total`, its repr, a region and the progress of a source without a length know the numbers."""
    array, checkpoint, heard = made(tmp_path / "a"), Checkpoint(tmp_path / "c"), []
    assert checkpoint
    assert "not begun" in repr(checkpoint)
    write_stream(array, iter(items(range(8))), checkpoint=checkpoint, progress=heard.append)
    assert {told.total for told in heard} == {20}
    assert (len(checkpoint), checkpoint.done, checkpoint.total) == (8, 8, 20)
    assert "8 of 20 chunks done" in repr(checkpoint)
    assert list(checkpoint.pending(array, region=slice(10, 20))) == [(8,), (9,)]
    left = checkpoint.pending(array)
    assert len(left) == 12
    assert next(left) == (8,)
    assert len(left) == 11
    heard.clear()
    write_stream(array, iter(items(range(20))), checkpoint=checkpoint, progress=heard.append)
    assert heard[-1].total == heard[-1].done + heard[-1].skipped == 20
    (tmp_path / "c").write_bytes(b"dear diary\n")
    assert "cannot be read" in repr(checkpoint)


def test_pending_is_awaited(tmp_path: Path) -> None:
    """An array of either face tells what is left without a blocked loop."""
    array, checkpoint = made(tmp_path / "a"), Checkpoint(tmp_path / "c")
    write_stream(array, items(range(15)), checkpoint=checkpoint)

    async def left(which: Any) -> list[Any]:
        return [index async for index in checkpoint.apending(which, region=slice(32, None))]

    assert asyncio.run(left(array)) == [(16,), (17,), (18,), (19,)]
    assert asyncio.run(left(array.async_array)) == [(16,), (17,), (18,), (19,)]


_HOLDER = """
import os, sys, time, numpy as np, zarr
from zarrstream import Checkpoint, write_stream
def source():
    yield (0,), np.ones(2, "i4")
    if os.fork() == 0:
        os.close(1)
        os.read(0, 1)  # an orphan, which lives until its standard input ends
        os._exit(0)
    print("ready", flush=True)
    os.read(0, 1)
write_stream(zarr.open_array(sys.argv[1] + "/a", mode="r+"), source(), checkpoint=Checkpoint(sys.argv[1] + "/c"))
"""


def test_a_lock_ends_with_its_holder_and_names_it(tmp_path: Path) -> None:
    """Neither a forked child nor what a kill has left holds the checkpoint."""
    array = made(tmp_path / "a")
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(CheckpointLockedError, match=f"in use by process {holder.pid} on"):
            write_stream(array, [], checkpoint=Checkpoint(tmp_path / "c"))
        holder.kill()
        holder.wait()
        assert write_stream(array, items([1]), checkpoint=Checkpoint(tmp_path / "c")).written == 1
    assert not (tmp_path / "c.lock").exists()
    assert FileLock(str(tmp_path / "c.lock")).holder() == "another process"


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves a record that is whole, and says whose file had no room."""
    array, path = made(tmp_path / "a"), tmp_path / "c"
    write_stream(array, items(range(3)), checkpoint=Checkpoint(path))
    before, real = path.read_bytes(), os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if data.startswith(b"process"):  # of the lock
            return real(descriptor, data, offset)
        if len(data) > 3:
            return real(descriptor, data[:3], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: full(descriptor, bytes(data[:6]), offset))
    with pytest.raises(OSError, match="No space left") as raised:
        write_stream(array, items([5]), checkpoint=Checkpoint(path))
    assert raised.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_bytes().startswith(before)
    assert len(list(Checkpoint(path).pending(array))) == 17
    assert write_stream(array, items([5]), checkpoint=Checkpoint(path)).written == 1
