"""Where a path of a file system leads: whatever the working folder is, there and back by its URL, and nowhere else."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import fsspec
import fsspec.generic
import numpy as np
import pytest
import zarr
from fsspec.generic import GenericFileSystem, rsync
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from tests.optional import require
from zarrstream.errors import StoreOptionError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUFFIXES = {"sqlite": ".db", "lmdb": ".lmdb", "zarrzip": ".zip"}
every_protocol = pytest.mark.parametrize("protocol", SUFFIXES)


@pytest.fixture
def base(tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a database that is not there yet, beside the working folder."""
    if protocol == "lmdb":
        require("lmdb")
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    return f"{tmp_path}/x{SUFFIXES[protocol]}"


@every_protocol
def test_an_absolute_url_needs_no_working_folder(protocol: str, base: str) -> None:
    """It may be gone, as a job's folder is when the job is tidied up: values are read, and not fill values."""
    url = f"{protocol}:///{base}"
    zarr.create_array(url, shape=8, chunks=2, dtype="i4", fill_value=-1)[:] = np.arange(8)
    array = zarr.open_array(url, mode="r")
    os.rmdir(os.getcwd())  # noqa: PTH106, PTH109  # what is tested
    np.testing.assert_array_equal(array[:], np.arange(8))
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], np.arange(8))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array))[:], np.arange(8))
    files = fsspec.filesystem(protocol, path=base)
    with pytest.raises(StoreUnavailableError, match=r"working folder is gone.*absolute path"):
        files.cat_file("x.db/zarr.json")
    with pytest.raises(StoreUnavailableError, match="working folder is gone"):
        zarr.open_array(f"{protocol}:///x{SUFFIXES[protocol]}", mode="r")


@every_protocol
def test_relative_paths_begin_where_the_file_system_was_made(protocol: str, base: str, tmp_path: Path) -> None:
    """Whoever changes the working folder reads the same array, in a copy as well."""
    os.chdir(tmp_path)
    name = os.path.basename(base)  # noqa: PTH119  # plain text
    files = fsspec.filesystem(protocol, path=name)
    store = FsspecStore(AsyncFileSystemWrapper(files, asynchronous=True), path=name)
    zarr.create_array(store, shape=8, chunks=2, dtype="i4", fill_value=-1)[:] = np.arange(8)
    array = zarr.open_array(store, mode="r")
    os.chdir(tmp_path / "job")
    np.testing.assert_array_equal(array[:], np.arange(8))
    assert pickle.loads(pickle.dumps(files)).cat_file(f"{name}/c/0") == files.cat_file(f"{base}/c/0")
    assert os.listdir() == []  # noqa: PTH208  # names are all that is asked


OUTSIDE: tuple[Callable[[Any, str], object], ...] = (
    lambda files, path: files.cat_file(path),
    lambda files, path: files.cat_ranges([path], [0], [1], on_error="raise"),
    lambda files, path: files.info(path),
    lambda files, path: files.ls(path),
    lambda files, path: files.find(path),
    lambda files, path: files.exists(path),
    lambda files, path: files.isfile(path),
    lambda files, path: files.isdir(path),
    lambda files, path: files.pipe_file(path, b"1"),
    lambda files, path: files.rm(path),
    lambda files, path: files.open(path, "rb"),
)


@every_protocol
@pytest.mark.parametrize("ask", OUTSIDE)
def test_a_path_of_another_place_is_told_and_is_not_absent(
    protocol: str, base: str, ask: Callable[[Any, str], object]
) -> None:
    """zarr would take FileNotFoundError for a chunk that is not stored."""
    files = fsspec.filesystem(protocol, path=base)
    for path in ("/elsewhere/k", f"{base}2/k", os.path.dirname(base)):  # noqa: PTH120  # plain text
        with pytest.raises(StoreOptionError, match="is not in"):
            ask(files, path)


@every_protocol
@pytest.mark.parametrize("key", ["k", "a/b", "100%25", "?x=1#y", "é/日本", "a b", "~", "a//b", ".."])
def test_a_url_that_is_told_leads_back(protocol: str, base: str, key: str) -> None:
    """From a path, from a URL, and from an open file."""
    files, root = fsspec.url_to_fs(f"{protocol}:///{base}")
    files.pipe_file(f"{root}/{key}", b"1")
    url = files.unstrip_protocol(f"{root}/{key}")
    assert url == files.unstrip_protocol(url) == f"{protocol}:///{root}/{key}"
    again, path = fsspec.url_to_fs(url)
    assert path == f"{root}/{key}"
    assert again.root == files.root
    assert files.cat_file(url) == b"1"
    assert fsspec.open(url).full_name == url


def test_a_table_in_memory_has_a_url_that_leads_back() -> None:
    require("lmdb")
    from zarrstream.filesystem import SharedMemoryFileSystem

    files = SharedMemoryFileSystem("name-of-nothing")
    assert files._strip_protocol(files.unstrip_protocol("/name-of-nothing/k")) == "/name-of-nothing/k"
    unbound = fsspec.filesystem("shm")
    with pytest.raises(FileNotFoundError):
        unbound.cat_file("shm://name-of-nothing/k")


@every_protocol
@pytest.mark.parametrize("method", ["default", "current", "generic"])
def test_rsync_takes_a_tree_out_and_in(
    protocol: str, base: str, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By URL alone, as fsspec's own tool makes its file systems, and by one that is registered with it."""
    url = f"{protocol}:///{base}"
    zarr.create_array(url, name="a/b", shape=4, chunks=2, dtype="i4")[:] = [1, 2, 3, 4]
    fsspec.url_to_fs(url)[0].publish()
    if method == "generic":
        for name, options in ((protocol, {"path": base}), ("file", {})):
            monkeypatch.setitem(fsspec.generic._generic_fs, name, fsspec.filesystem(name, **options))
    generic = GenericFileSystem(default_method=method, skip_instance_cache=True)
    rsync(url, f"file://{tmp_path}/out", fs=generic)
    np.testing.assert_array_equal(zarr.open_array(f"{tmp_path}/out/a/b", mode="r")[:], [1, 2, 3, 4])
    if method != "generic":
        other = f"{tmp_path}/y{SUFFIXES[protocol]}"
        rsync(f"file://{tmp_path}/out", f"{protocol}:///{other}", fs=generic)
        np.testing.assert_array_equal(zarr.open_array(f"{protocol}:///{other}/a/b", mode="r")[:], [1, 2, 3, 4])


@every_protocol
def test_a_database_in_another_file_system_is_told(protocol: str, base: str) -> None:
    """As a chained URL would have it: no back end reads its file but from a disk."""
    with pytest.raises(StoreOptionError, match=r"is a local file or folder.*bring it here first"):
        fsspec.open(f"{protocol}:///{base}::memory://y").open()
