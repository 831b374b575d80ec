"""What a cached store forgets, and what it never keeps."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from zarr.storage import LocalStore, MemoryStore

from tests.gridfs_buckets import fresh_url
from tests.values import PROTOTYPE, buffer, content, get
from zarrstream import MappingStore, open_store
from zarrstream.faults.store import FaultyStore
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.buckets.location import RemotePlace
from zarrstream.stores.buckets.store import RemoteStore
from zarrstream.stores.wrappers.cache_places import place_and_prefix
from zarrstream.stores.wrappers.cached import CachedStore
from zarrstream.stores.wrappers.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from pathlib import Path


def test_what_an_archive_has_not_published_is_not_kept(tmp_path: Path) -> None:
    """Values that are pending are this process's own: who opens the archive after a kill, or a revert, has the old."""
    url, cache_url = f"zip:////{tmp_path}/x.zip", f"sqlite:////{tmp_path}/c.db"
    store: Any = open_store(url, cache=cache_url)
    store.set_sync("c/0", buffer(b"1"))
    store.flush()
    store.set_sync("c/0", buffer(b"2"))
    assert content(store.get_sync("c/0")) == b"2"
    assert asyncio.run(store.get("c/0", PROTOTYPE)).to_bytes() == b"2"
    store.mapping.revert()
    assert content(store.get_sync("c/0")) == b"1"
    assert not list(store.cache.mapping.keys_under("v/"))
    store.close()


@pytest.mark.parametrize("face", ["sync", "async", "many"])
def test_an_array_that_is_made_anew_begins_without_the_old_ones_chunks(tmp_path: Path, face: str) -> None:
    """As after ``rm -rf out.zarr``: only where its metadata were missing; what is changed of them forgets nothing."""
    plain: Any = MappingStore(SQLiteMapping(tmp_path / "plain.db"))
    store: Any = CachedStore(plain, ChunkCache(SQLiteMapping(tmp_path / "c.db")))

    def describe() -> None:
        if face == "sync":
            store.set_sync("x/zarr.json", buffer(b"{}"))
        elif face == "async":
            asyncio.run(store.set("x/zarr.json", buffer(b"{}")))
        else:
            asyncio.run(store._set_many([("x/zarr.json", buffer(b"{}"))]))

    describe()
    for key in ("x/c/0", "y/c/0"):
        store.set_sync(key, buffer(b"1"))
        assert content(store.get_sync(key)) == b"1"
    describe()
    for key in ("x/c/0", "y/c/0"):
        plain.mapping[key] = b"by hand"
        assert content(store.get_sync(key)) == b"1"  # kept
    plain.mapping.clear_under("x")
    describe()
    assert store.get_sync("x/c/0") is None
    assert content(store.get_sync("y/c/0")) == b"1"
    store.close()


def test_a_folder_and_those_above_it_are_one_place(tmp_path: Path, cache: ChunkCache) -> None:
    """What is changed through one of them is not read as it was through another, and is kept once."""
    outer, inner = (CachedStore(LocalStore(folder), cache) for folder in (tmp_path, tmp_path / "t"))
    for number, (writer, key) in enumerate([(outer, "t/c/0"), (inner, "c/0")] * 2):
        asyncio.run(writer.set(key, buffer(b"%d" % number)))
        assert get(outer, "t/c/0") == get(inner, "c/0") == b"%d" % number
    assert len(list(cache.mapping.keys_under("v/"))) == 1
    asyncio.run(outer.delete_dir("t"))
    assert get(inner, "c/0") is None
    asyncio.run(inner.set("c/0", buffer(b"4")))
    assert get(outer, "t/c/0") == b"4"
    asyncio.run(inner.clear())
    assert get(outer, "t/c/0") is None


def test_a_cached_store_has_what_its_store_has(tmp_path: Path) -> None:
    """Transactions, snapshots and the mapping; where there are none, the error is the store's."""
    store: Any = open_store(f"sqlite:////{tmp_path}/x.db", cache=f"sqlite:////{tmp_path}/c.db")
    assert store.mapping == SQLiteMapping(tmp_path / "x.db")
    with pytest.raises(TypeError, match="has no transactions"), store.transaction():
        pass
    with pytest.raises(TypeError, match="has no transactions"), store.snapshot():
        pass
    with pytest.raises(TypeError, match="has no transactions"):
        store.in_transaction(len)
    with pytest.raises(AttributeError):
        store.no_such_thing  # noqa: B018  # asked for its absence
    store.close()


def _pair(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Two names of one place: that of the whole, and that of what is beneath ``t`` in it."""
    if kind == "folder":
        return LocalStore(tmp_path), LocalStore(tmp_path / "t")
    if kind == "memory":
        store = MemoryStore()
        return store, FaultyStore(store)
    server = request.getfixturevalue("mongod")
    url = fresh_url(server)
    array = {"mongodb": "e/t", "localhost": "e"}[kind]
    other = url.replace("127.0.0.1", "localhost") if kind == "localhost" else url
    return open_store(url, array_id="e"), open_store(other, array_id=array)


@pytest.mark.parametrize(
    "kind",
    ["folder", "memory", *(pytest.param(name, marks=pytest.mark.server) for name in ("mongodb", "localhost"))],
)
def test_a_change_through_one_name_of_a_place_is_seen_through_another(
    tmp_path: Path, cache: ChunkCache, kind: str, request: pytest.FixtureRequest
) -> None:
    """A part of it and the whole, another spelling of its host, a wrapper: a chunk is one entry of the cache."""
    whole, part = (CachedStore(store, cache) for store in _pair(tmp_path, kind, request))
    key, same = ("t/c/0", "c/0") if kind in {"folder", "mongodb"} else ("c/0", "c/0")
    for number, (writer, name) in enumerate([(whole, key), (part, same)] * 2):
        asyncio.run(writer.set(name, buffer(b"%d" % number)))
        assert get(whole, key) == get(part, same) == b"%d" % number
    assert len(list(cache.mapping.keys_under("v/"))) == 1
    asyncio.run(part.delete_dir("c"))
    assert get(whole, key) is None
    for store in (whole, part):
        store.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/", True),
        ("http://127.0.0.1:9000", "http://LOCALHOST:9000", True),
        ("https://store.example.org", "https://store.example.org:443/", True),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9001", False),
        ("http://a.example.org/one", "http://a.example.org/two", False),
        ("http://a.example.org", "https://a.example.org", False),
    ],
)
def test_an_endpoint_has_one_name(one: str, other: str, same: bool) -> None:
    """However it is written; and two of them are never one."""
    places = set()
    for endpoint in (one, other):
        for prefix in ("p", "p/t"):
            store = RemoteStore(RemotePlace("s3", "bucket", prefix, "s3fs", endpoint))
            place, begins = place_and_prefix(store)
            assert begins == f"{prefix}/"
            places.add(place)
    assert (len(places) == 1) is same
