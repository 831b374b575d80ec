"""URLs, paths, schemes and their parts: each leads to its store, and each mistake is named with the nearest right."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import zarrstream
from tests.optional import require
from zarrstream import MappingStore, list_stores, open_store, places, register_store
from zarrstream.errors import MissingExtraError, StoreOptionError
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores import opening as registry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})


def open_third(url: str = "parts", *, colour: str = "red", read_only: bool = False) -> MemoryStore:
    """Stand for another package's factory."""
    store = MemoryStore(read_only=read_only)
    store.asked = (url, colour)  # type: ignore[attr-defined]  # for the test to see
    return store


THIRD = f"{__name__}:open_third"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///rel.db", "{cwd}/rel.db"),
        ("SQLite:///sub/rel.db", "{cwd}/sub/rel.db"),
        ("sqlite:////abs/x.db", "/abs/x.db"),
        ("sqlite:///100%25.db?mode=ro#part", "{cwd}/100%25.db?mode=ro#part"),
        ("sqlite:///a b.db", "{cwd}/a b.db"),
    ],
)
def test_a_sqlite_url_is_a_path_as_it_stands(url: str, path: str, tmp_path: Path) -> None:
    store = open_store(url)
    assert isinstance(store, MappingStore)
    assert store.place == "sqlite:///" + path.format(cwd=tmp_path.resolve())
    assert not list(tmp_path.iterdir())


def test_parts_are_the_same_as_the_url() -> None:
    store = open_store("sqlite", path="x.db", durability="full", busy_timeout=1.5, read_only=True)
    assert store == MappingStore(SQLiteMapping("x.db"), read_only=True)
    assert repr(store) == f"MappingStore(SQLiteMapping('{Path.cwd()}/x.db', durability='full'), read_only=True)"
    assert open_store("sqlite:///x.db", durability="full", read_only=True) == store


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("data.zarr", "data.zarr"),
        (Path("data.zarr"), "data.zarr"),
        (Path("sqlite"), "sqlite"),
        ("./sqlite", "sqlite"),
        ("file:///abs/data.zarr", "/abs/data.zarr"),
        ("file://rel/a%20b?c#d", "rel/a%20b?c#d"),
        ("C:\\data.zarr", "C:\\data.zarr"),
        ("C:/data.zarr", "C:/data.zarr"),
        ("c://data.zarr", "c:/data.zarr"),
    ],
)
def test_paths_and_file_urls_are_zarrs_local_store(url: str | Path, root: str) -> None:
    store = open_store(url, read_only=True)
    assert type(store) is LocalStore
    assert (store.root, store.read_only) == (Path(root).absolute(), True)


def test_memory_is_what_zarr_opens_under_that_name() -> None:
    array = zarr.create_array(open_store("memory://registry-test/a"), shape=4, chunks=2, dtype="i4")
    array[:] = 7
    assert np.all(zarr.open_array("memory://registry-test/a", mode="r")[:] == 7)
    store = open_store("memory", name="registry-test/a", read_only=True)
    assert isinstance(store, FsspecStore)
    assert np.all(zarr.open_array(store)[:] == 7)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("sqllite:///x.db", {}, "'sqllite'; did you mean 'sqlite'"),
        ("nonesuch://x", {}, "Known are abfs, az, azure, "),
        ("sqlite:///x.db", {"durabilty": "full"}, "'durabilty'; did you mean 'durability'"),
        ("sqlite:///x.db", {"retry": 3}, "retry is a zarrstream.Retry"),
        ("sqlite:///x.db", {"max_concurrency": 0}, "max_concurrency is a number of requests, 1 or more"),
        ("sqlite:///x.db", {"rate": -1}, "rate is a number of requests per second"),
        ("sqlite:///x.db", {"path": "y.db"}, "no option 'path'"),
        ("sqlite:///x.db", {"durability": "fulll"}, "'full', 'normal' or 'off', not 'fulll'"),
        ("sqlite:///x.db", {"read_onyl": True}, "did you mean 'read_only'"),
        ("data.zarr", {"cache": 1}, "a cache is the URL of a mapping"),
        ("data.zarr", {"cache": "memory://x"}, "a cache is the URL of a mapping"),
        ("sqlite", {}, "missing a required argument: 'path'"),
        ("sqlite://x.db", {}, "three slashes"),
        ("sqlite:///", {}, "names no"),
        ("memory://", {}, "memory://NAME"),
        ("file://", {}, "names no folder"),
        ("", {}, "a URL or a path"),
        (5, {}, "a URL or a path"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_right(url: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreOptionError) as caught:
        open_store(url, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "url", "options", "message"),
    [
        ("s3fs", "s3://", {}, "which bucket? Write s3://BUCKET/PREFIX"),
        ("s3fs", "s3", {"buket": "b"}, "'buket'; did you mean 'bucket'"),
        ("s3fs", "s3://b", {"engine": "boto"}, "there are 's3fs' and 'obstore'"),
        ("s3fs", "s3://b", {"bucket": "c"}, "the URL names the bucket already"),
        ("gcsfs", "gs://", {}, "which bucket?"),
        ("adlfs", "az", {}, "which container? Write az://CONTAINER/PREFIX"),
        ("adlfs", "az://c", {"account_key": "k", "sas_token": "s"}, "one kind of credentials, not account_key and sas"),
    ],
)
def test_a_mistake_in_a_cloud_is_named(driver: str, url: str, options: dict[str, Any], message: str) -> None:
    require(driver)
    with pytest.raises(StoreOptionError) as caught:
        open_store(url, **options)
    assert message in str(caught.value)


def test_a_file_given_as_a_folder_is_told_its_url() -> None:
    Path("x.db").write_bytes(b"")
    with pytest.raises(StoreOptionError, match=r"sqlite:///x\.db"):
        open_store("x.db")


def test_a_registered_store_is_opened_by_url_and_by_parts() -> None:
    register_store("third", THIRD)
    by_url: Any = open_store("third://host/db?x=1", colour="blue", read_only=True)
    assert (by_url.asked, by_url.read_only) == (("third://host/db?x=1", "blue"), True)
    by_parts: Any = open_store("third", colour="green")
    assert by_parts.asked == ("parts", "green")
    with pytest.raises(StoreOptionError, match="did you mean 'colour'"):
        open_store("third://x", color="red")


def test_a_registered_factory_may_return_a_mapping() -> None:
    register_store("ours", "zarrstream.mappings.sqlite:SQLiteMapping")
    store = open_store("ours", path="x.db", read_only=True)
    assert store == open_store("sqlite:///x.db", read_only=True)


@pytest.mark.parametrize("scheme", ["sqlite", "third"])
def test_a_known_scheme_is_replaced_only_on_demand(scheme: str) -> None:
    register_store("third", THIRD)
    with pytest.raises(StoreOptionError, match="replace=True"):
        register_store(scheme, THIRD)
    register_store(scheme, THIRD, replace=True)
    assert isinstance(open_store(f"{scheme}:///x"), MemoryStore)


@pytest.mark.parametrize("scheme", ["", "c", "Caps", "with space", "a://"])
def test_a_scheme_is_checked(scheme: str) -> None:
    with pytest.raises(StoreOptionError, match="a scheme is"):
        register_store(scheme, THIRD)


@pytest.mark.parametrize("factory", ["", "module", "module:", ":name", "module.name"])
def test_a_factory_is_checked(factory: str) -> None:
    with pytest.raises(StoreOptionError, match=r"package\.module:factory"):
        register_store("third", factory)


@pytest.fixture
def _entry_points_read_anew() -> Iterator[None]:
    registry._of_packages.cache_clear()
    yield
    registry._of_packages.cache_clear()


@pytest.mark.usefixtures("_entry_points_read_anew")
def test_an_entry_point_of_another_package_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("other", THIRD, "zarrstream.stores")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point] if group == point.group else [])
    assert isinstance(open_store("other://x"), MemoryStore)
    assert "other" in [info.scheme for info in list_stores()]
    with pytest.raises(StoreOptionError, match="replace=True"):
        register_store("other", THIRD)


@pytest.mark.usefixtures("_entry_points_read_anew")
def test_the_entry_points_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`open_store` opens no file of any installed package after the first time."""
    asked: list[str] = []
    monkeypatch.setattr(registry, "entry_points", lambda *, group: asked.append(group) or [])
    for _ in range(3):
        open_store("sqlite:///x.db")
    assert asked == ["zarrstream.stores"]


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    far = "zarrstream.far:open_far"
    absent = places.BackEnd("far", "far away", far, ("farther",), extra="far", drivers=("no_such",))
    monkeypatch.setattr(places, "BUILT_IN", (*places.BUILT_IN, absent))
    for url in ("far://x", "farther://x", "farther"):
        with pytest.raises(MissingExtraError, match=r"pip install 'zarrstream\[far\]'"):
            open_store(url)
    info = next(info for info in list_stores() if info.scheme == "far")
    assert (info.installed, info.extra, info.aliases) == (False, "far", ("farther",))


@pytest.mark.parametrize("factory", ["no_such_package.module:factory", "zarrstream.places:no_such_factory"])
def test_a_factory_that_is_not_there_is_named(factory: str) -> None:
    register_store("gone", factory)
    with pytest.raises(MissingExtraError, match=factory):
        open_store("gone://x")


def test_what_is_known_is_listed() -> None:
    schemes = [info.scheme for info in list_stores()]
    assert schemes == sorted(row.scheme for row in places.BUILT_IN)
    assert {"file", "lmdb", "memory", "postgresql", "shm", "sqlite", "zip"} <= set(schemes)
    assert all(info.title and (info.installed or info.extra) for info in list_stores())
    assert {info.scheme: info.extra for info in list_stores() if info.extra} == {
        row.scheme: row.extra for row in places.BUILT_IN if row.drivers
    }


def test_importing_and_listing_import_no_back_end() -> None:
    program = (
        "import sys, zarrstream; zarrstream.list_stores(); "
        "assert 'zarrstream.mappings.sqlite' not in sys.modules; assert 'zarrstream.filesystem' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(zarrstream.__file__).parents[1])
