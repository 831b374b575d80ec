"""Every file system of ours passes fsspec's own abstract tests, and opens by URL alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
import zarr
from fsspec.tests import abstract
from zarr.storage import FsspecStore

from tests.optional import require
from tests.urls import url_params, urls, within
from zarrstream.errors import StoreOptionError
from zarrstream.testing import check_hierarchy_machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=url_params())
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is not there."""
    for _, made in urls(request.param, tmp_path, request):
        yield made


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec ships no types
    """What fsspec's tests ask for."""

    @pytest.fixture
    def fs(self, url: str) -> Iterator[Any]:
        made = fsspec.url_to_fs(url)[0]
        yield made
        made.mapping.close()

    @pytest.fixture
    def fs_path(self, fs: Any) -> str:
        return str(fs.root)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]  # as above
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]  # as above
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]  # as above
    pass


class TestMove(Fixtures):
    def test_mv(self, fs: Any, fs_join: Any, fs_target: str) -> None:
        """fsspec has no abstract class for it."""
        fs.pipe_file(fs_join(fs_target, "a", "b"), b"1")
        fs.mv(fs_join(fs_target, "a"), fs_join(fs_target, "c"), recursive=True)
        assert fs.find(fs_target) == [fs_join(fs_target, "c", "b")]
        assert fs.cat_file(fs_join(fs_target, "c", "b")) == b"1"


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]  # as above
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]  # as above
    pass


# -- by URL alone -----------------------------------------------------------------------------------------------------


def test_zarr_opens_the_url_without_importing_us(url: str) -> None:
    """The entry point brings us; and what was not there is not made by reading."""
    program = f"""
import sys, zarr
try:
    zarr.open({url!r}, mode="r")
except FileNotFoundError:
    pass
else:
    raise AssertionError
group = zarr.open_group({url!r}, mode="w")
group.create_array("deep/a", shape=(7, 5), chunks=(3, 2), dtype="i4", fill_value=-1)[:6] = 1
assert "zarrstream.filesystem" in sys.modules
again = zarr.open({url!r}, mode="r")
assert sorted(name for name, _ in again.members(max_depth=None)) == ["deep", "deep/a"], list(again.members())
assert (again["deep/a"][:6] == 1).all() and (again["deep/a"][6:] == -1).all()
for array in (zarr.open_array({url!r}, path="deep/a"), zarr.open_array({within(url, "deep/a")!r})):
    assert (array[:6] == 1).all()
"""
    mapping = fsspec.url_to_fs(url)[0].mapping
    assert not mapping
    assert not hasattr(mapping, "path") or not mapping.path.exists()
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert "deep/a/c/0/0" in mapping


def test_files_within_are_opened_by_url(url: str) -> None:
    with fsspec.open(within(url, "a/zarr.json"), "wb") as file:
        file.write(b"0123456789")
    with fsspec.open(within(url, "a/zarr.json")) as file:
        file.seek(3)
        assert file.read(4) == b"3456"
    files, path = fsspec.url_to_fs(within(url, "a/zarr.json"))
    assert files.cat_ranges([path, path], [0, -2], [2, None]) == [b"01", b"89"]
    assert [entry["size"] for entry in files.ls(within(url, "a"))] == [10]
    assert files.exists(within(url, "a"))
    assert not files.exists(within(url, "b"))
    files.mapping.close()


def test_hierarchies_behave_as_in_memory(url: str) -> None:
    """zarr's own store over our file system passes its state machine, root listing of zarr 3.1.6 included."""
    check_hierarchy_machine(FsspecStore.from_url(url), examples=4, steps=8)


def test_a_pickled_copy_reconnects(url: str) -> None:
    files = fsspec.url_to_fs(url)[0]
    files.pipe_file(f"{files.root}/k", b"1")
    copy = pickle.loads(pickle.dumps(files))
    assert copy.cat_file(f"{copy.root}/k") == b"1"
    assert (copy.fsid, copy.root) == (files.fsid, files.root)
    copy.mapping.close()
    files.mapping.close()


# -- where the database ends and the key begins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "url", "database"),
    [
        ((), "lmdb:///new", "new"),
        ((), "lmdb:///new/group", "new/group"),
        ((), "lmdb:///x.lmdb/group/zarr.json", "x.lmdb"),
        (("data/data.mdb",), "lmdb:///data/group/y.lmdb", "data"),
        (("x.lmdb",), "lmdb:///x.lmdb/y.lmdb/group", "x.lmdb/y.lmdb"),
        (("x.lmdb/other",), "lmdb:///x.lmdb/y.lmdb/group", "x.lmdb"),
    ],
)
def test_a_folder_with_data_mdb_is_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], url: str, database: str
) -> None:
    """Else the first part with the suffix that is no file; else all."""
    require("lmdb")
    monkeypatch.chdir(tmp_path)
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    made, path = fsspec.url_to_fs(url)
    assert (made.root, path) == (f"{tmp_path}/{database}", f"{tmp_path}/{url.removeprefix('lmdb:///')}")


def test_the_first_part_of_a_url_is_the_table(shm_name: str) -> None:
    require("lmdb")
    made, path = fsspec.url_to_fs(f"shm://{shm_name}/group/zarr.json")
    assert (made.root, path, made.mapping.name) == (f"/{shm_name}", f"/{shm_name}/group/zarr.json", shm_name)


def test_a_table_that_cannot_be_is_refused() -> None:
    require("lmdb")
    with pytest.raises(StoreOptionError, match="table in shared memory is named"):
        fsspec.url_to_fs("shm://../x")


def test_options_reach_the_mapping_and_a_copy_is_no_owner(shm_name: str) -> None:
    require("lmdb")
    array = zarr.create_array(
        f"shm://{shm_name}", shape=4, dtype="i4", storage_options={"owner": True, "map_size": 1 << 20}
    )
    files: Any = array.store.fs.sync_fs  # type: ignore[union-attr]
    assert repr(files.mapping) == f"SharedMemoryMapping('{shm_name}', owner=True, map_size=1048576)"
    copy = pickle.loads(pickle.dumps(files))
    assert not copy.mapping.owner
    copy.mapping.close()
    array[:] = 1
    assert files.mapping.path.exists()
    files.mapping.close()
    assert not files.mapping.path.exists()
