"""SQLite as a file system of fsspec, and under it zarr, xarray and dask by URL alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
import zarr
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from zarrstream.errors import StoreCorruptError, StoreError, StoreOptionError, StoreUnavailableError
from zarrstream.filesystem import MappingFileSystem, SQLiteFileSystem
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.testing import AWKWARD_KEYS, check_hierarchy_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zarrstream import ByteMapping


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SQLiteFileSystem]:
    made = SQLiteFileSystem(str(tmp_path / "x.db"))
    for key in ("zarr.json", "a/b", "a/c/d", "a"):
        made.mapping[key] = key.encode()
    yield made
    made.mapping.close()


def names(root: str, *keys: str) -> list[str]:
    return [f"{root}/{key}" for key in keys]


# -- by URL alone -----------------------------------------------------------------------------------------------------


def test_zarr_opens_the_url_without_importing_us() -> None:
    """The entry point brings us; what was not there is not made by reading."""
    program = """
import sys, os, zarr
try:
    zarr.open("sqlite:///x.db", mode="r")
except FileNotFoundError:
    assert not os.listdir()
else:
    raise AssertionError
group = zarr.open_group("sqlite:///x.db", mode="w")
group.create_array("deep/a", shape=(7, 5), chunks=(3, 2), dtype="i4", fill_value=-1)[:6] = 1
assert "zarrstream.filesystem" in sys.modules
again = zarr.open("sqlite:///x.db", mode="r")
assert sorted(name for name, _ in again.members(max_depth=None)) == ["deep", "deep/a"], list(again.members())
assert (again["deep/a"][:6] == 1).all() and (again["deep/a"][6:] == -1).all()
for array in (zarr.open_array("sqlite:///x.db", path="deep/a"), zarr.open_array("sqlite:///x.db/deep/a")):
    assert (array[:6] == 1).all()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_opening_what_is_not_there_makes_no_file(mode: Any) -> None:
    with pytest.raises(FileNotFoundError):
        zarr.open("sqlite:///x.db", mode=mode)
    assert not os.listdir()  # noqa: PTH208  # names are all that is asked


def test_storage_options_reach_the_mapping() -> None:
    array = zarr.create_array(
        "sqlite:///x.db", shape=4, dtype="i4", storage_options={"durability": "full", "busy_timeout": 3}
    )
    assert repr(array.store.fs.sync_fs.mapping).endswith("durability='full')")  # type: ignore[union-attr,attr-defined]
    with pytest.raises(StoreOptionError, match="did you mean 'durability'"):
        zarr.open("sqlite:///x.db", mode="r", storage_options={"durabilty": "full"})


def test_hierarchies_behave_as_in_memory(tmp_path: Path) -> None:
    """zarr's own store over our file system passes its state machine, root listing of zarr 3.1.6 included."""
    check_hierarchy_machine(FsspecStore.from_url(f"sqlite:///{tmp_path}/x.db"), examples=8, steps=10)


def test_clear_leaves_nothing() -> None:
    """zarr's FsspecStore gives up at the first name that is gone with its folder."""
    store = FsspecStore.from_url("sqlite:///x.db")
    mapping = store.fs.sync_fs.mapping  # type: ignore[attr-defined]
    mapping.update_many((key, b"1") for key in AWKWARD_KEYS)
    sync(store.delete_dir("a[1]"))
    sync(store.delete("a*b/c"))
    assert set(mapping) == set(AWKWARD_KEYS) - {"a[1]/y", "a*b/c"}
    sync(store.clear())
    assert not mapping


# -- where the database ends and the key begins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "url", "database"),
    [
        ((), "sqlite:///new", "new"),
        ((), "sqlite:///new/group", "new/group"),
        ((), "sqlite:///x.db/group/zarr.json", "x.db"),
        ((), "sqlite:///x.sqlite3/y.db", "x.sqlite3"),
        (("data",), "sqlite:///data/group/y.db", "data"),
        (("folder.db/y",), "sqlite:///folder.db/y/group", "folder.db/y"),
        (("folder.db/",), "sqlite:///folder.db/y.sqlite/group", "folder.db/y.sqlite"),
    ],
)
def test_the_database_is_the_first_file_else_the_first_suffix_else_all(
    tmp_path: Path, there: tuple[str, ...], url: str, database: str
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    made, path = fsspec.url_to_fs(url)
    assert isinstance(made, SQLiteFileSystem)
    assert made.root == f"{tmp_path}/{database}"
    assert path == f"{tmp_path}/{url.removeprefix('sqlite:///')}"


def test_without_a_database_each_path_tells_its_own(tmp_path: Path) -> None:
    """As in a URL; the end of a transaction publishes in all of them, and a copy finds them, too."""
    made = fsspec.filesystem("sqlite")
    made.pipe({"sqlite:///x.db/k": b"1", f"{tmp_path}/y.db/deep/k": b"2"})
    copy = pickle.loads(pickle.dumps(made))
    for files in (made, copy):
        assert files.cat_file(f"{tmp_path}/x.db/k") == b"1"
        assert files.find("sqlite:///y.db") == [f"{tmp_path}/y.db/deep/k"]
        assert files.ls(f"{tmp_path}/y.db/deep")[0]["size"] == 1
    with made.transaction, made.open("sqlite:///x.db/k", "wb") as file:
        file.write(b"3")
    assert SQLiteMapping("x.db")["k"] == b"3"


# -- the verbs of fsspec ----------------------------------------------------------------------------------------------


def test_bytes_by_range(files: SQLiteFileSystem) -> None:
    path = f"{files.root}/zarr.json"
    assert files.cat_file(path) == b"zarr.json"
    assert files.cat_file(path, 1, 3) == b"ar"
    assert files.cat_file(path, -4) == b"json"
    assert files.cat_file(path, end=4) == b"zarr"
    assert files.cat_file("sqlite:///x.db/zarr.json", 99) == b""
    assert files.cat_ranges([path, f"{files.root}/none"], [0, 0], [1, 1])[0] == b"z"
    assert files.cat([path]) == b"zarr.json" or files.cat([path]) == {path: b"zarr.json"}
    with pytest.raises(FileNotFoundError):
        files.cat_file(f"{files.root}/none")


def test_listings(files: SQLiteFileSystem) -> None:
    """A name that is a key and a level at once is both."""
    root = files.root
    assert files.ls(root, detail=False) == names(root, "a", "zarr.json")
    assert files.ls(f"{root}/a/", detail=False) == names(root, "a/b", "a/c")
    assert [entry["type"] for entry in files.ls(f"{root}/a")] == ["file", "directory"]
    assert files.ls(f"{root}/zarr.json", detail=False) == names(root, "zarr.json")
    assert files.find(root) == names(root, "a", "a/b", "a/c/d", "zarr.json")
    assert files.find(root, withdirs=True) == names(root, "zarr.json", "a/c/d", "a/b", "a", "a/c")
    assert files.find(root, maxdepth=1) == names(root, "a", "zarr.json")
    assert files.find(f"{root}/a", detail=True)[f"{root}/a/c/d"]["size"] == 5
    assert files.find(f"{root}/none") == []
    assert files.glob(f"{root}/a/*") == names(root, "a/b", "a/c")
    assert files.glob(f"{root}/**/d") == names(root, "a/c/d")
    assert [path for path, _, _ in files.walk(f"{root}/a")] == names(root, "a", "a/c")
    assert files.info(f"{root}/a/b") == {"name": f"{root}/a/b", "size": 3, "type": "file"}
    assert files.info(root)["type"] == files.info(f"{root}/a/c")["type"] == "directory"
    assert (files.isfile(f"{root}/a"), files.isdir(f"{root}/a"), files.isdir(f"{root}/a/b")) == (True, True, False)
    assert (files.exists(f"{root}/a/c"), files.exists(f"{root}/a/x")) == (True, False)
    for ask in (files.ls, files.info):
        with pytest.raises(FileNotFoundError):
            ask(f"{root}/none")


def test_writing_moving_and_removing(files: SQLiteFileSystem) -> None:
    root, mapping = files.root, files.mapping
    files.pipe({f"{root}/n/1": b"1", f"{root}/n/2": b"22"})
    with pytest.raises(FileExistsError):
        files.pipe_file(f"{root}/n/1", b"3", mode="create")
    files.cp_file(f"{root}/n/1", f"{root}/m/1")
    files.mv(f"{root}/n/2", f"{root}/m/2")
    assert {key: mapping[key] for key in mapping.keys_under("m/")} == {"m/1": b"1", "m/2": b"22"}
    files.copy(f"{root}/m", f"{root}/copied", recursive=True)
    assert sorted(mapping.keys_under("copied/")) == ["copied/1", "copied/2"]
    files.rm(f"{root}/m", recursive=True)
    with pytest.raises(FileNotFoundError):
        files.rm(f"{root}/m", recursive=True)
    with pytest.raises(FileNotFoundError):
        files.rm(f"{root}/copied")
    files.rm(names(root, "copied/1", "a"))
    files.rm_file(f"{root}/copied/2")
    files.makedirs(f"{root}/nothing/at/all", exist_ok=True)
    assert sorted(mapping) == ["a/b", "a/c/d", "n/1", "zarr.json"]


def test_open_files(files: SQLiteFileSystem) -> None:
    path = f"{files.root}/open"
    with files.open(path, "wb") as file:
        file.write(b"0123")
        file.write(b"456789")
    with files.open(path, "ab") as file:
        file.write(b"ab")
    with files.open(path, "rb", block_size=4, cache_type="none") as file:
        file.seek(8)
        assert file.read(3) == b"89a"
    with fsspec.open("sqlite:///x.db/open", "rt") as text:
        assert text.read() == "0123456789ab"
    files.touch(f"{files.root}/empty")
    assert files.mapping["empty"] == b""
    files.start_transaction()
    with files.open(path, "wb") as file:
        file.write(b"lost")
    assert files.cat_file(path) == b"0123456789ab"
    files.transaction.complete(commit=False)
    files.end_transaction()
    assert files.cat_file(path) == b"0123456789ab"
    with files.transaction, files.open(path, "wb") as file:
        file.write(b"kept")
    assert files.cat_file(path) == b"kept"


def test_a_copy_reconnects_and_knows_that_the_file_was_there(files: SQLiteFileSystem) -> None:
    copy = pickle.loads(pickle.dumps(files))
    assert copy.cat_file(f"{files.root}/a/b") == b"a/b"
    lost = pickle.dumps(files)
    files.mapping.close()
    copy.mapping.close()
    Path(files.root).unlink()
    with pytest.raises(StoreUnavailableError):
        pickle.loads(lost).cat_file(f"{files.root}/a/b")


# -- failures are never "absent" --------------------------------------------------------------------------------------


class Broken(SQLiteMapping):
    """Fails as told, where a chunk is asked for."""

    def _fail(self, key: str) -> None:
        if "/c/" in f"/{key}":
            raise StoreUnavailableError(f"{key!r}: the range is not satisfiable, says the disk")

    def __getitem__(self, key: str) -> bytes:
        self._fail(key)
        return super().__getitem__(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self._fail(key)
        return super().read(key, start, stop)


def test_a_failure_is_never_a_fill_value(tmp_path: Path) -> None:
    """Not for whole chunks, nor for ranges in shards, nor with the words that zarr takes for an empty value."""
    mapping = SQLiteMapping(tmp_path / "x.db")
    url = f"sqlite:///{tmp_path}/x.db"
    zarr.create_array(url, name="a", shape=8, chunks=2, dtype="i4")[:] = 1
    zarr.create_array(url, name="s", shape=(8,), chunks=(2,), shards=(4,), dtype="i4")[:] = 1
    store = FsspecStore.from_url(url)
    files = store.fs.sync_fs  # type: ignore[attr-defined]
    files.mapping = Broken(mapping.path)
    for name in ("a", "s"):
        array = zarr.open_array(store, path=name, mode="r")
        for ask in (slice(None), slice(1, 3), 5):
            with pytest.raises(BaseException) as caught:  # noqa: PT011  # zarr 3.4 may group what the shards raise
                array[ask]
            assert (
                caught.group_contains(StoreError)
                if isinstance(caught.value, BaseExceptionGroup)
                else isinstance(caught.value, StoreError)
            )


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"garbage" * 1000)])
def test_a_file_lost_or_spoilt_under_an_open_array_is_an_error(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    array = zarr.create_array("sqlite:///x.db", shape=8, chunks=2, dtype="i4")
    array[:] = 1
    array.store.fs.sync_fs.mapping._file._links.close()  # type: ignore[attr-defined]  # what is spoilt is the file at rest
    spoil(tmp_path / "x.db")
    with pytest.raises((StoreUnavailableError, StoreCorruptError)):
        array[:]


def test_any_mapping_can_be_shown(tmp_path: Path) -> None:
    mapping: ByteMapping = SQLiteMapping(tmp_path / "x.db")
    shown = MappingFileSystem(mapping, "/a/root")
    shown.pipe_file("/a/root/k", b"1")
    assert (dict(mapping), shown.ls("/a/root", detail=False)) == ({"k": b"1"}, ["/a/root/k"])
