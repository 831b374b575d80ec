"""A place that is lost under an open array is an error for reading, listing and writing, and is never made anew."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from tests.optional import require
from tests.streaming.spies import Spy
from zarrstream import aio, open_store, stream_chunks, stream_slices, write_stream
from zarrstream.errors import ChunkReadError, StoreAccessError, StoreUnavailableError, ZarrStreamError
from zarrstream.streaming.transport import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URLS = {
    "path": "{disk}/x",
    "file": "file://{disk}/x",
    "sqlite": "sqlite:///{disk}/x.db",
    "lmdb": "lmdb:///{disk}/x.lmdb",
    "zip": "zip:///{disk}/x.zip",
}
every_url = pytest.mark.parametrize("kind", URLS)


def array_in(kind: str, disk: Path, *, name: str = "a") -> zarr.Array:
    """Make an array of fives on a disk; half of it is stored."""
    if kind == "lmdb":
        require("lmdb")
    disk.mkdir()
    store = open_store(URLS[kind].format(disk=disk))
    array = zarr.create_array(store, name=name, shape=(16,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:8] = 5
    if kind == "zip":
        store.mapping.flush()  # type: ignore[attr-defined]  # a MappingStore
    return array


def unmount(disk: Path) -> None:
    """Take a disk away; the mount point stays behind, empty."""
    disk.rename(disk.with_name("elsewhere"))
    disk.mkdir()


def remove(disk: Path) -> None:
    """Take a disk away, with all that is on it."""
    shutil.rmtree(disk)


def empty(disk: Path) -> None:
    """Have another disk mounted there, with other things on it."""
    unmount(disk)
    (disk / "x" / "other").mkdir(parents=True)


READ: dict[str, Callable[[zarr.Array], Any]] = {
    "chunks": lambda array: np.concatenate([chunk.data for chunk in stream_chunks(array)]),
    "slices": lambda array: np.concatenate([part.data for part in stream_slices(array)]),
    "stored": lambda array: np.concatenate(
        [np.empty(0, "i4"), *(chunk.data for chunk in stream_chunks(array, include_missing=False))]
    ),
}


ABSENT = (FileNotFoundError, NotADirectoryError, KeyError)


def outcome(work: Callable[[], Any]) -> Any:
    """Return the value, or the error."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001  # the law says which
        return error


@pytest.mark.parametrize("lose", [unmount, remove, empty])
@pytest.mark.parametrize("how", READ)
@every_url
def test_a_lost_place_is_never_read_as_fill_values(
    kind: str, how: str, lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """Not as absent chunks, and not as an empty stream; LMDB may still have the values in memory."""
    array = array_in(kind, tmp_path / "disk")
    lose(tmp_path / "disk")
    got = outcome(lambda: READ[how](array))
    if isinstance(got, Exception):
        assert isinstance(got, ZarrStreamError)
        assert not isinstance(got, ABSENT)
    else:
        assert kind == "lmdb"
        assert got[:8].tolist() == [5] * 8
    array.store.close()


def all_beneath(folder: Path) -> list[Path]:
    """List all that is in a folder."""
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("lose", [unmount, remove, empty])
@pytest.mark.parametrize("face", ["blocking", "aio"])
@pytest.mark.parametrize("kind", ["path", "file", "sqlite"])
async def test_a_lost_place_is_not_made_anew(
    kind: str, face: str, lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """Nothing is written into what lies in its place."""
    array = array_in(kind, tmp_path / "disk")
    lose(tmp_path / "disk")
    before = all_beneath(tmp_path)
    source = [((0,), np.ones(2, "i4"))]
    with pytest.raises(ZarrStreamError):
        await aio.write_stream(array, source) if face == "aio" else write_stream(array, source)
    assert all_beneath(tmp_path) == before
    array.store.close()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["", "a", "g/a"])
def test_a_folder_that_is_lost_amid_a_pass_is_an_error(tmp_path: Path, name: str, zarr_format: Any) -> None:
    """Whenever it happens: a chunk that is absent is looked into."""
    array = zarr.create_array(
        tmp_path / "disk", name=name or None, shape=(400,), chunks=(2,), dtype="i4", zarr_format=zarr_format
    )
    array[:] = 5
    chunks = iter(stream_chunks(array, max_bytes=16, concurrency=1))
    next(chunks)
    shutil.rmtree(tmp_path / "disk")
    got: list[Any] = []
    with pytest.raises(ChunkReadError, match="is lost: its metadata"):
        got.extend(chunks)
    assert all((chunk.data == 5).all() for chunk in got)


def test_an_absent_chunk_of_an_array_that_is_there_is_its_fill_value(tmp_path: Path) -> None:
    """What was never written is read as zarr reads it."""
    array = array_in("path", tmp_path / "disk")
    assert READ["chunks"](array).tolist() == array[...].tolist()
    assert READ["stored"](array).tolist() == [5] * 8


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the working folder moves no store."""
    monkeypatch.chdir(tmp_path)
    array = zarr.create_array(open_store("data"), shape=(4,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = 5
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert READ["chunks"](array).tolist() == [5] * 4
    assert array[...].tolist() == [5] * 4


# -- each call of the system that may fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ENOENT", "ENOTDIR", "EACCES", "EIO", "ESTALE", "EMFILE", "ELOOP"])
@pytest.mark.parametrize("call", ["open", "pread", "lseek", "stat", "scandir"])
@pytest.mark.parametrize("how", READ)
def test_a_call_that_fails_never_makes_a_value(
    how: str, call: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the system, failing in each way: the right values, or an error that names no absence."""
    array = array_in("path", tmp_path / "disk")
    right = READ[how](array).tolist()
    real = getattr(os, call)

    def failing(*arguments: Any, **options: Any) -> Any:
        if call in {"pread", "lseek"} or str(tmp_path / "disk") in str(arguments[0]):
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), *map(str, arguments[:1]))
        return real(*arguments, **options)

    monkeypatch.setattr(files.os, call, failing)
    got = outcome(lambda: READ[how](array).tolist())
    if isinstance(got, Exception):
        assert isinstance(got, (ZarrStreamError, OSError))
        assert not isinstance(got, ABSENT)
    elif got != right:
        # A file or folder of chunks that is not there is absent: nobody can tell that from a lost one.
        assert call in {"open", "scandir"}
        assert code in {"ENOENT", "ENOTDIR"}


def test_a_folder_that_may_not_be_listed_is_no_empty_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what is in it."""
    array = array_in("path", tmp_path / "disk")
    real = os.scandir

    def forbidden(path: Any) -> Any:
        if str(path).endswith("/c"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(files.os, "scandir", forbidden)
    with pytest.raises(StoreAccessError, match="cannot be listed"):
        list(stream_chunks(array, include_missing=False))


class CannotList(Spy):
    """A store behind a server that answers every listing with an empty page."""

    async def list_prefix(self, prefix: str) -> Any:
        for key in ():
            yield prefix + key


def test_a_server_that_cannot_list_is_no_empty_stream() -> None:
    """A listing without the array's own metadata cannot be whole."""
    array = zarr.create_array(CannotList(), shape=(8,), chunks=(2,), dtype="i4")
    array[:] = 1
    with pytest.raises(StoreUnavailableError, match=r"cannot be whole.*include_missing=True"):
        list(stream_chunks(array, include_missing=False))
    assert len(list(stream_chunks(array))) == 4


# -- leftovers of killed writers --------------------------------------------------------------------------------------


def test_sweeping_meets_what_others_swept_and_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tidying up fails no write, whoever else tidies, and touches nothing that is not ours."""
    array = zarr.create_array(LocalStore(tmp_path / "a"), shape=(8,), chunks=(2,), dtype="i4")
    dead = 2**22 - 3  # no process has such a number
    ours = [tmp_path / "a" / f".zarrstream-{files._HOST}-{dead}-token-{number}.partial" for number in range(3)]
    theirs = [
        tmp_path / "a" / ".zarrstream-notes.partial",
        tmp_path / "a" / f".zarrstream-{files._HOST}-{'9' * 20}-token-1.partial",
        tmp_path / "a" / f".zarrstream-{files._HOST}-x-token-1.partial",
    ]
    for path in (*ours, *theirs):
        path.write_bytes(b"")
    (tmp_path / "a" / f".zarrstream-{files._HOST}-{dead}-token-9.partial").mkdir()
    unlink = os.unlink

    def swept_by_another(path: Any, **options: Any) -> None:
        unlink(path, **options)
        if str(path) == str(ours[1]):
            raise FileNotFoundError(errno.ENOENT, "another writer was first", path)

    monkeypatch.setattr(files.os, "unlink", swept_by_another)
    assert write_stream(array, [((0,), np.ones(2, "i4"))]).written == 1
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in theirs)
