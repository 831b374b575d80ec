"""LMDB files that lie about their size, or are damaged; folders of tables that are something else, or full."""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from tests.optional import require
from zarrstream import open_store
from zarrstream.errors import StoreCorruptError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

lmdb = require("lmdb")

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402  # as above
from zarrstream.mappings.lmdb.integrity import CutShortError, Pages  # noqa: E402  # as above
from zarrstream.mappings.shm import SharedMemoryMapping  # noqa: E402  # as above
from zarrstream.mappings.shm import folder as shm_folder  # noqa: E402  # once the driver is there

_LAST, _MAP = 16 + 24 + 96, 16 + 16  # where a meta page has the number of the last page, and the size of the map


@pytest.mark.parametrize("gigabytes", [1, 1000, 100_000])
def test_a_copy_that_was_interrupted_is_told_at_no_cost(tmp_path: Path, gigabytes: int) -> None:
    """However much of it is lacking: nothing is made for each page that is not there."""
    mapping = LMDBMapping(tmp_path / "x.lmdb", durability="off")
    mapping.update_many({f"c/{at}": b"x" * 3000 for at in range(50)})
    mapping.close()
    data = tmp_path / "x.lmdb" / "data.mdb"
    raw = bytearray(data.read_bytes())
    for page in (0, 4096):
        struct.pack_into("<Q", raw, page + _LAST, (gigabytes << 30) // 4096 - 1)
    data.write_bytes(raw)
    with data.open("rb") as file:
        pages, made = Pages(file, 4096), set()
        for page in (0, 4096):
            (transaction,) = struct.unpack_from("<Q", raw, page + _LAST + 8)
            made.add(transaction)
            with pytest.raises(CutShortError, match="bytes are there"):
                pages.check(transaction)
    assert made


def test_damaged_lists_of_free_pages_are_told(tmp_path: Path) -> None:
    """Whatever number is wrong: an error of ours or none, and no endless walk."""
    mapping = LMDBMapping(tmp_path / "x.lmdb", durability="off")
    for at in range(60):
        mapping[f"c/{at}"] = b"x" * 9000
        del mapping[f"c/{at}"]
    mapping.close()
    data = tmp_path / "x.lmdb" / "data.mdb"
    whole = data.read_bytes()
    shown = random.Random(1)  # noqa: S311  # it chooses what a test breaks
    told = 0
    for _ in range(300):
        raw = bytearray(whole[: shown.randrange(3 * 4096, len(whole)) // 4096 * 4096])
        for _ in range(4):
            at = shown.randrange(len(raw) - 8)
            raw[at : at + 8] = shown.randbytes(8)
        (tmp_path / "damaged").write_bytes(raw)
        with (tmp_path / "damaged").open("rb") as file:
            for page in (0, 4096):
                (transaction,) = struct.unpack_from("<Q", raw, page + _LAST + 8)
                try:
                    Pages(file, 4096).check(transaction)
                except CutShortError:
                    told += 1
    assert told


def test_a_file_in_the_place_of_a_table_is_no_empty_table(shm_name: str) -> None:
    """It is an error for every way in, and none that zarr takes for absence."""
    array: Any = zarr.create_array(f"shm://{shm_name}", shape=4, chunks=2, dtype="i4", fill_value=-1)
    array[:] = 7
    mapping = SharedMemoryMapping(shm_name)
    folder = mapping._folder.path
    mapping.close()
    shutil.rmtree(folder)
    with open(folder, "w"):  # noqa: PTH123  # text, as all its paths
        pass
    try:
        fresh = open_store(f"shm://{shm_name}")
        with pytest.raises(StoreError):
            fresh.get_sync("zarr.json")  # type: ignore[attr-defined]  # a MappingStore
        for call in (lambda: SharedMemoryMapping(shm_name)["k"], lambda: list(SharedMemoryMapping(shm_name))):
            with pytest.raises(StoreUnavailableError):
                call()
    finally:
        os.unlink(folder)  # noqa: PTH108  # as above


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "mkdir", "fstat", "lstat"])
def test_what_the_system_refuses_is_our_error(
    call: str, code: int, shm_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full file system, too many files: no bare `OSError`, and nobody is locked out afterwards."""
    real = getattr(os, call)

    def failing(path: Any, *arguments: Any, **options: Any) -> Any:
        if call == "fstat" or str(path).startswith(shm_folder.MEMORY):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **options)

    mapping = SharedMemoryMapping(shm_name)
    monkeypatch.setattr(shm_folder.os, call, failing)
    with suppress(StoreError):  # the law: this or nothing
        mapping["k"] = b"1"
    monkeypatch.undo()
    done: list[bytes] = []

    def write() -> None:
        mapping["k"] = b"2"
        done.append(bytes(mapping["k"]))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert done == [b"2"]
    mapping.destroy()


@pytest.mark.parametrize("call", ["flock", "fstat"])
def test_an_interrupt_while_the_folder_is_taken_leaves_it_free(
    call: str, shm_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised as the lock is had: every process of the user would wait for ever."""
    mapping = SharedMemoryMapping(shm_name)
    module = shm_folder.fcntl if call == "flock" else shm_folder.os
    real = getattr(module, call)

    def interrupted(*arguments: Any) -> Any:
        real(*arguments)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapping["k"] = b"1"
    monkeypatch.undo()
    assert not shm_folder._descriptors
    mapping["k"] = b"2"
    mapping.destroy()


def test_a_damaged_database_is_our_error(tmp_path: Path) -> None:
    """A file of another kind, or one with nothing behind its first page."""
    for content in (b"no database" * 1000, b"", b"\0" * 4096):
        folder = tmp_path / f"x{len(content)}.lmdb"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(content)
        try:
            found = list(LMDBMapping(folder))
        except StoreCorruptError:
            continue
        assert found == []
