"""Processes that share a folder merge into a chunk or shard in turn, and leave no lock behind."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.processes import run
from tests.streaming.test_told import every_layout
from zarrstream import write_stream
from zarrstream.errors import ChunkWriteError, StoreAccessError
from zarrstream.streaming.transport.files import FileTransport

if TYPE_CHECKING:
    from zarrstream.concurrency.file_lock import FileLock

WRITERS, ROWS = 3, 60


def new(folder: Path, *, sharded: bool) -> zarr.Array:
    """Make an array whose stored objects each belong to every writer."""
    return zarr.create_array(
        str(folder), shape=(ROWS, 4), chunks=(1 if sharded else 12, 4), shards=(12, 4) if sharded else None, dtype="i4"
    )


def write_rows(folder: str, first: int) -> None:
    """Write every third row, each by itself."""
    array = zarr.open_array(folder, mode="r+")
    items = [(np.s_[row : row + 1], np.full((1, 4), row + 1, "i4")) for row in range(first, ROWS, WRITERS)]
    write_stream(array, items, partial="merge", max_bytes=1)


@every_layout
def test_processes_lose_nothing_of_each_other(sharded: bool, tmp_path: Path) -> None:
    """Each has rows of its own, in the same chunks or shards."""
    array = new(tmp_path, sharded=sharded)
    run("fork", write_rows, [(str(tmp_path), first) for first in range(WRITERS)])
    assert array[:, 0].tolist() == list(range(1, ROWS + 1))
    assert not list(tmp_path.glob(".*"))


@every_layout
def test_a_merge_waits_for_another_process(sharded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And reads what that one has written meanwhile."""
    array = new(tmp_path, sharded=sharded)
    asked, take = threading.Event(), FileTransport.acquire

    def acquire(self: FileTransport, lock: FileLock) -> None:
        asked.set()
        take(self, lock)

    monkeypatch.setattr(FileTransport, "acquire", acquire)
    others = FileTransport(tmp_path, "", "zarr.json").lock("c/0/0")
    others.acquire()
    writer = threading.Thread(target=write_rows, args=(str(tmp_path), 0))
    writer.start()
    assert asked.wait(30)
    assert not (tmp_path / "c").exists()
    array[1] = 7
    others.release()
    writer.join()
    assert array[:4, 0].tolist() == [1, 7, 0, 4]


def test_a_lock_that_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    """One that is held stays."""
    array = new(tmp_path, sharded=False)
    held, left = (FileTransport(tmp_path, "", "zarr.json").lock(key) for key in ("c/0/0", "c/1/0"))
    held.acquire()
    Path(left.path).touch()  # as a kill leaves it
    write_stream(array, [])
    assert Path(held.path).exists()
    assert not Path(left.path).exists()
    held.release()


def test_a_lock_that_cannot_be_made_fails_the_chunk(tmp_path: Path) -> None:
    """It is told, and what is stored stays: a merge beside another one would lose something."""
    array = new(tmp_path, sharded=False)
    array[...] = 3
    lock = FileTransport(tmp_path, "", "zarr.json").lock("c/0/0")
    Path(lock.path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ChunkWriteError, match="cannot be locked") as caught:
        write_rows(str(tmp_path), 0)
    assert isinstance(caught.value.__cause__, StoreAccessError)
    assert (array[...] == 3).all()


def test_a_file_system_without_locks_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The merges go on, as they would without locks."""

    def unsupported(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    array = new(tmp_path, sharded=False)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    write_rows(str(tmp_path), 0)
    assert caplog.text.count("has no locks") == 1
    assert array[3].tolist() == [4] * 4
