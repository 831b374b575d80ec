"""A zip archive by fsspec URL: who publishes what zarr writes, where nobody holds a store to close."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore

from tests.streaming.spies import eventually
from tests.zip_files import content, sidecars
from zarrstream.errors import StoreCorruptError, StoreOptionError, StoreUnavailableError
from zarrstream.filesystem import ZarrZipFileSystem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_was_written_is_there_after_the_interpreter_ended(tmp_path: Path) -> None:
    """The array may still be alive then, as any variable of a script is."""
    program = """
import zarr
array = zarr.create_array("zarrzip:///a.zip", shape=4, chunks=2, dtype="i4")
zarr.open_array("zarrzip:///a.zip", mode="r+")[...] = 1
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert sorted(content(tmp_path / "a.zip")) == ["c/0", "c/1", "zarr.json"]
    assert (zarr.open_array("zarrzip:///a.zip", mode="r")[...] == 1).all()
    assert os.listdir() == ["a.zip"]  # noqa: PTH208  # names are all that is asked


def test_an_exception_that_ends_the_interpreter_does_not_lose_what_was_written(tmp_path: Path) -> None:
    program = """
import zarr
zarr.create_array("zarrzip:///a.zip", shape=4, chunks=2, dtype="i4")[...] = 1
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 3
    assert sorted(content(tmp_path / "a.zip")) == ["c/0", "c/1", "zarr.json"]


def test_the_last_array_that_goes_publishes(tmp_path: Path) -> None:
    """Until then all of this process see what is pending, whichever way they opened it."""
    array = zarr.create_array("zarrzip:///a.zip", shape=4, chunks=2, dtype="i4")
    array[:] = 1
    again = zarr.open_array(f"zarrzip:///{tmp_path}/a.zip", mode="r+")
    assert (again[:] == 1).all()
    again[2:] = 2
    assert not (tmp_path / "a.zip").exists()
    del array, again

    def published() -> bool:
        gc.collect()  # again: the thread of zarr's loop may hold the last of it for a moment
        return (tmp_path / "a.zip").exists() and not sidecars(tmp_path / "a.zip")

    assert eventually(published, 30)
    assert sorted(content(tmp_path / "a.zip")) == ["c/0", "c/1", "zarr.json"]
    np.testing.assert_array_equal(zarr.open_array("zarrzip:///a.zip", mode="r")[:], [1, 1, 2, 2])


def test_the_end_of_a_transaction_publishes(tmp_path: Path) -> None:
    """In both of fsspec's forms; what is not committed is not written."""
    files = ZarrZipFileSystem("a.zip")
    with files.transaction, files.open("zarrzip:///a.zip/k", "wb") as file:
        file.write(b"1")
    assert content(tmp_path / "a.zip") == {"k": b"1"}
    files.start_transaction()
    with files.open("zarrzip:///a.zip/k", "wb") as file:
        file.write(b"2")
    files.end_transaction()
    assert content(tmp_path / "a.zip") == {"k": b"2"}
    files.start_transaction()
    with files.open("zarrzip:///a.zip/k", "wb") as file:
        file.write(b"3")
    files.transaction.complete(commit=False)
    files.mapping.close()
    assert content(tmp_path / "a.zip") == {"k": b"2"}


def test_fsspecs_own_name_is_not_taken() -> None:
    assert fsspec.get_filesystem_class("zarrzip") is ZarrZipFileSystem
    assert fsspec.get_filesystem_class("zip").__module__ == "fsspec.implementations.zip"


@pytest.mark.parametrize(
    ("url", "archive", "key"),
    [
        ("zarrzip:///a.zip", "a.zip", ""),
        ("zarrzip:///a.zip/group/zarr.json", "a.zip", "/group/zarr.json"),
        ("zarrzip:///data.zarr.zip/a", "data.zarr.zip", "/a"),
        ("zarrzip:///no_suffix", "no_suffix", ""),
        ("zarrzip:///100%25?#.zip/a", "100%25?#.zip", "/a"),
    ],
)
def test_a_url_is_divided_into_archive_and_key(tmp_path: Path, url: str, archive: str, key: str) -> None:
    made, path = fsspec.url_to_fs(url)
    assert (made.root, path) == (f"{tmp_path}/{archive}", f"{tmp_path}/{archive}{key}")
    assert not os.listdir()  # noqa: PTH208  # names are all that is asked


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(StoreOptionError, match="'zarrzip' has no option 'level'"):
        zarr.open("zarrzip:///a.zip", storage_options={"level": 9})


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"garbage" * 1000)])
def test_an_archive_lost_or_spoilt_under_an_open_array_is_no_fill_value(tmp_path: Path, spoil: Any) -> None:
    array = zarr.create_array("zarrzip:///a.zip", shape=8, chunks=2, dtype="i4")
    array[:] = 1
    store: Any = array.store
    store.fs.sync_fs.mapping.flush()
    spoil(tmp_path / "a.zip")
    with pytest.raises((StoreUnavailableError, StoreCorruptError)):
        array[:]


def test_a_pickled_store_knows_that_the_archive_was_there(tmp_path: Path) -> None:
    """A worker to which the disk is not mounted says so."""
    array = zarr.create_array("zarrzip:///a.zip", shape=8, chunks=2, dtype="i4")
    array[:] = 1
    data = pickle.dumps(array)
    assert len(content(tmp_path / "a.zip")) == 5
    del array
    gc.collect()
    assert (pickle.loads(data)[:] == 1).all()
    gc.collect()
    (tmp_path / "a.zip").unlink()
    with pytest.raises(StoreUnavailableError):
        pickle.loads(data)[:]


def test_a_store_of_zarr_over_the_file_system_says_where_it_is(tmp_path: Path) -> None:
    store = FsspecStore.from_url("zarrzip:///a.zip")
    assert store.path == f"{tmp_path}/a.zip"
