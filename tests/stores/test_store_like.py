"""Wherever a store or a path is taken, every way to name one is: zarr's own, the system's, universal_pathlib's."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore, StorePath

import zarrstream
from tests.optional import require
from zarrstream import (
    ByteMapping,
    CachedStore,
    Checkpoint,
    ChunkCache,
    MappingStore,
    ResilientStore,
    Retry,
    TracedStore,
    open_store,
    stream_chunks,
)
from zarrstream.errors import StoreOptionError
from zarrstream.faults.store import FaultyStore
from zarrstream.identity import unwrapped
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.zip import ZipMapping
from zarrstream.recorder import recording
from zarrstream.stores.wrappers.interceptor import Wrapper
from zarrstream.timeline import load

for _module in ("lmdb", "opentelemetry.sdk", "tenacity", "upath"):
    require(_module)

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402  # once the driver is there

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.store import Store


def _upath(text: str) -> Any:
    return require("upath").UPath(text)


#: Ways to name the store of a folder.
FORMS: dict[str, Callable[[Path], Any]] = {
    "store": LocalStore,
    "zarr's path": lambda folder: StorePath(LocalStore(folder)),
    "text": str,
    "URL": lambda folder: f"file://{folder}",
    "path": lambda folder: folder,
    "path of the machine": lambda folder: _upath(str(folder)),
    "path with a protocol": lambda folder: _upath(f"file://{folder}"),
}
#: What takes a store.
TAKERS: dict[str, Callable[[Any, Path], Store]] = {
    "open_store": lambda given, _: open_store(given),
    "open_store with everything": lambda given, folder: open_store(
        given, retry=Retry(), trace=True, cache=f"sqlite:///{folder}/c.db"
    ),
    "ResilientStore": lambda given, _: ResilientStore(given, retry=Retry()),
    "TracedStore": lambda given, _: TracedStore(given),
    "CachedStore": lambda given, folder: CachedStore(given, ChunkCache(SQLiteMapping(folder / "c.db"))),
    "FaultyStore": lambda given, _: FaultyStore(given),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("taker", TAKERS)
def test_every_way_to_name_a_store_is_taken(taker: str, form: str, tmp_path: Path) -> None:
    """By `open_store` and by each wrapper: what is written through it lies in that folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    store = TAKERS[taker](FORMS[form](folder), tmp_path)
    array = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i4")
    array[...] = np.arange(4)
    assert isinstance(unwrapped(store), LocalStore)
    assert zarr.open_array(folder, mode="r")[...].tolist() == [0, 1, 2, 3]
    store.close()


@pytest.mark.parametrize("taker", TAKERS)
def test_a_path_within_a_store_is_told_what_to_do(taker: str, tmp_path: Path) -> None:
    """A wrapper has a whole store: the path would be lost, and the array be made at the root."""
    with pytest.raises(StoreOptionError, match=r"is a path within a store.*path='a/b' to zarr\.open"):
        TAKERS[taker](StorePath(MemoryStore(), "a/b"), tmp_path)


@pytest.mark.parametrize("taker", [taker for taker in TAKERS if "open_store" not in taker])
def test_a_mapping_is_taken_by_wrappers(taker: str, tmp_path: Path) -> None:
    """As `MappingStore` has it."""
    store = TAKERS[taker](SQLiteMapping(tmp_path / "x.db"), tmp_path)
    assert isinstance(unwrapped(store), MappingStore)
    store.close()


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("given", [3, None, b"", [], object()])
def test_what_is_no_store_is_told(taker: str, given: Any, tmp_path: Path) -> None:
    """In words, and not by an attribute that it lacks."""
    with pytest.raises(StoreOptionError, match="a store is"):
        TAKERS[taker](given, tmp_path)


def test_a_store_that_is_there_takes_no_options() -> None:
    """They belong to what would have opened it; read-only it can be had."""
    with pytest.raises(StoreOptionError, match="is a store already, and takes no options: durability"):
        open_store(MemoryStore(), durability="full")
    assert open_store(MemoryStore(), read_only=True).read_only
    assert isinstance(open_store(StorePath(MemoryStore())), MemoryStore)


# -- universal_pathlib's paths of our own databases -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:UPath .* filesystem not explicitly implemented")
@pytest.mark.parametrize(
    ("scheme", "name"), [("sqlite", "x.db"), ("lmdb", "x.lmdb"), ("zarrzip", "x.zip"), ("sqlite", "not here/../x.db")]
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_upath_of_a_database_is_that_database(
    scheme: str, name: str, absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not a relative path of the same letters, which it shows as its text."""
    if scheme == "lmdb":
        require("lmdb")
    monkeypatch.chdir(tmp_path)
    path = _upath(f"{scheme}:///{tmp_path}/{name}" if absolute else f"{scheme}:///{name}")
    store = open_store(path)
    assert str(store) == str(open_store(f"{scheme.removeprefix('zarr')}:///{tmp_path}/{Path(name).name}"))
    with pytest.raises(StoreOptionError, match=r"leads into a store.*path='a/b'"):
        open_store(path / "a" / "b")
    store.close()


@pytest.mark.filterwarnings("ignore:UPath .* filesystem not explicitly implemented")
def test_a_upath_brings_the_options_of_its_file_system(tmp_path: Path) -> None:
    """Those that the store knows; others are refused as they are by name."""
    upath = require("upath")
    store: Any = open_store(upath.UPath(f"sqlite:///{tmp_path}/x.db", durability="full"))
    assert "durability='full'" in repr(store)
    assert str(open_store(upath.UPath("mongodb://u:secret@127.0.0.1:1/db"))).startswith("mongodb://127.0.0.1:1/db")
    with pytest.raises(StoreOptionError, match=r"leads into a store.*path='a'"):
        open_store(upath.UPath("postgresql://127.0.0.1:1/db/a"))


# -- files ------------------------------------------------------------------------------------------------------------

#: What takes the path of a file or folder of this machine.
OF_FILES: dict[str, Callable[[Any], object]] = {
    "Checkpoint": lambda path: Checkpoint(path).path,
    "SQLiteMapping": lambda path: SQLiteMapping(path).path,
    "LMDBMapping": lambda path: LMDBMapping(path).path,
    "ZipMapping": lambda path: ZipMapping(path).path,
}


@pytest.mark.parametrize("form", ["text", "path", "path of the machine", "path with a protocol"])
@pytest.mark.parametrize("taker", OF_FILES)
def test_every_way_to_name_a_file_is_taken(taker: str, form: str, tmp_path: Path) -> None:
    """It is the same file."""
    if taker == "LMDBMapping":
        require("lmdb")
    assert str(OF_FILES[taker](FORMS[form](tmp_path / "x.db"))) == str(tmp_path / "x.db")


@pytest.mark.parametrize("given", [3, None, object()])
def test_what_is_no_file_is_told(given: Any) -> None:
    """A checkpoint is kept on this machine, whatever the array's store is."""
    with pytest.raises(TypeError, match="a checkpoint is a file of this machine"):
        Checkpoint(given)
    with pytest.raises(TypeError, match="a checkpoint is a file of this machine"):
        Checkpoint(_upath("memory://a"))


@pytest.mark.parametrize("form", ["text", "path", "path of the machine"])
def test_a_trace_is_recorded_and_loaded_by_every_path(form: str, tmp_path: Path) -> None:
    """As text, too."""
    require("opentelemetry.sdk")
    path = FORMS[form](tmp_path / "trace")
    with recording(path, "all"):
        pass
    assert [line["name"] for line in load(path)] == ["all"]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "store"])
def test_in_an_arrays_place_each_is_told_how_it_is_opened(form: str, tmp_path: Path) -> None:
    """A stream takes an array."""
    with pytest.raises(TypeError, match=r"open it with zarr\.open_array\("):
        stream_chunks(FORMS[form](tmp_path))


def _public() -> dict[str, Any]:
    """Return everything public that takes a store or a path, by its name."""
    found: dict[str, Any] = {name: getattr(zarrstream, name) for name in zarrstream.__all__}
    for module in pkgutil.walk_packages(zarrstream.__path__, "zarrstream."):
        if module.name == "zarrstream.testing":
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            is_ours = getattr(value, "__module__", "") == module.name and not name.startswith("_")
            if is_ours and inspect.isclass(value) and issubclass(value, (ByteMapping, Wrapper)):
                found[name] = value
    return found


def test_every_public_name_that_takes_a_store_or_path_is_held_to_it() -> None:
    """A new one has to be added to the tables above, and says in its signature what it takes."""
    takers = {}
    for name, value in _public().items():
        if not callable(value) or (inspect.isclass(value) and issubclass(value, BaseException)):
            continue
        for parameter in inspect.signature(value).parameters.values():
            if parameter.name in {"store", "path"} or (name == "open_store" and parameter.name == "url"):
                takers[name] = str(parameter.annotation)
    assert {name for name, kind in takers.items() if "PathLike" not in kind and "StoreLike" not in kind} == set()
    assert set(takers) - {"Wrapper", "open_store"} == {*TAKERS, *OF_FILES} - {
        "open_store",
        "open_store with everything",
    }
