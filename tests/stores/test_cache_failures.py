"""The law of a cache's failures: whichever of its calls fails, the store is read and written right."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.optional import require
from tests.values import PROTOTYPE, buffer, content
from zarrstream import MappingStore, open_store
from zarrstream.concurrency.file_lock import FileLock
from zarrstream.errors import StoreFullError, StoreOptionError, StoreUnavailableError
from zarrstream.mappings.foreign import ForeignMapping
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.zip import ZipMapping
from zarrstream.stores.wrappers.cached import CachedStore
from zarrstream.stores.wrappers.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ERRORS = [
    StoreFullError("injected"),
    StoreUnavailableError("injected"),
    FileNotFoundError(2, "injected"),
    OSError(5, "injected"),
    ValueError("injected"),
    struct.error("injected"),
    MemoryError("injected"),
]
VERBS = [
    "__getitem__",
    "__setitem__",
    "__contains__",
    "discard",
    "children",
    "keys_under",
    "read_many",
    "update_many",
    "setdefault",
    "close",
]


class Failing(SQLiteMapping):
    """A mapping whose calls fail, one of them or all from one on."""

    calls = 0
    first = float("inf")
    once = False
    error: Exception = StoreFullError("injected")

    def meet(self) -> None:
        self.calls += 1
        if self.calls == self.first or (self.calls > self.first and not self.once):
            raise type(self.error)(*self.error.args)  # anew: a traceback keeps what it passed through


def failing(name: str) -> Callable[..., Any]:
    work = getattr(SQLiteMapping, name)

    def call(self: Failing, *arguments: Any) -> Any:
        self.meet()
        return work(self, *arguments)

    return call


for verb in VERBS:
    setattr(Failing, verb, failing(verb))


class Pair:
    """A cache that fails, another one on the same file as another process has it, and what has to be there."""

    def __init__(self, path: str) -> None:
        self.mapping = Failing(path, durability="off")
        self.plain = MappingStore({})
        self.caches = [ChunkCache(self.mapping, max_bytes=200), ChunkCache(SQLiteMapping(path, durability="off"))]
        self.stores = [CachedStore(self.plain, cache) for cache in self.caches]
        for store in self.stores:
            store._place = "place"
        self.model: dict[str, bytes] = {}

    def check(self) -> None:
        for _ in range(2):
            for store in self.stores:
                for key in ("a/c/0", "a/c/1", "b/c/0"):
                    assert content(store.get_sync(key)) == self.model.get(key), (key, self.stores.index(store))
        found = asyncio.run(self.stores[0].get("a/c/0", PROTOTYPE))
        assert (None if found is None else found.to_bytes()) == self.model.get("a/c/0")

    def write(self, which: int, *keys: str, value: bytes) -> None:
        store: Any = self.stores[which]
        if len(keys) == 1:
            store.set_sync(keys[0], buffer(value))
        else:
            store.set_many_sync([(key, buffer(value)) for key in keys])
        self.model.update(dict.fromkeys(keys, value))

    def run(self) -> None:
        """Read and write by all verbs."""
        try:
            self.write(1, "a/c/0", "a/c/1", "b/c/0", value=b"first" * 8)
            self.check()
            self.write(0, "a/c/0", value=b"second" * 8)
            self.check()
            self.write(0, "a/c/1", "b/c/0", value=b"third" * 8)
            self.check()
            asyncio.run(self.stores[0].set("a/c/0", buffer(b"fourth")))
            self.model["a/c/0"] = b"fourth"
            self.check()
            asyncio.run(self.stores[0].delete("a/c/1"))
            del self.model["a/c/1"]
            self.check()
            asyncio.run(self.stores[0].delete_dir("a"))
            del self.model["a/c/0"]
            self.check()
            self.write(0, "a/zarr.json", value=b"{}")
            self.write(1, "a/c/0", value=b"fifth")
            self.check()
        finally:
            for cache in self.caches:
                cache.close()
            self.mapping.first = float("inf")
            self.mapping.close()


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False], ids=["once", "from-then-on"])
def test_the_store_is_right_whichever_call_of_the_cache_fails(tmp_path: Path, once: bool) -> None:
    """No read is stale, also by whose cache does not fail, no write is refused, and no error leaves."""
    whole = Pair(str(tmp_path / "whole.db"))
    whole.run()
    for first in range(1, whole.mapping.calls + 1):
        pair = Pair(str(tmp_path / f"{first}.db"))
        pair.mapping.first, pair.mapping.once, pair.mapping.error = first, once, ERRORS[first % len(ERRORS)]
        pair.run()


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False], ids=["once", "from-then-on"])
def test_the_store_is_right_whenever_the_lock_cannot_be_had(
    tmp_path: Path, once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, first = 0, float("inf")
    acquire = FileLock.acquire

    def failing_lock(self: FileLock, *, wait: bool = True) -> bool:
        nonlocal calls
        calls += 1
        if calls == first or (calls > first and not once):
            raise PermissionError(13, "injected")
        return acquire(self, wait=wait)

    monkeypatch.setattr(FileLock, "acquire", failing_lock)
    Pair(str(tmp_path / "whole.db")).run()
    for number in range(1, calls + 1):
        calls, first = 0, number
        Pair(str(tmp_path / f"{number}.db")).run()


@pytest.mark.parametrize("prefix", ["g/", "t/", "w/", "i/", "v/", "total"])
@pytest.mark.parametrize("damage", [b"x", b"", b"\xff" * 40], ids=["letter", "nothing", "garbage"])
def test_what_is_damaged_in_a_cache_is_missed_and_heals(
    cache: ChunkCache, prefix: str, damage: bytes, tmp_path: Path
) -> None:
    """A record that holds something else is no value and no error; afterwards chunks are kept again."""
    plain: Any = MappingStore(SQLiteMapping(tmp_path / "plain.db"))
    store = CachedStore(plain, cache)
    for key in ("c/0", "c/1", "zarr.json"):
        store.set_sync(key, buffer(b"one" * 10))
    asyncio.run(store.delete_dir("other"))
    for key in ("c/0", "c/1"):
        store.get_sync(key)
    found = list(cache.mapping.keys_under(prefix))
    for name in found or [f"{prefix}nothing"]:
        cache.mapping[name] = damage
    for value in (b"one" * 10, b"two" * 10):
        for _ in range(3):
            assert content(store.get_sync("c/0")) == value
            assert content(store.get_sync("c/1")) == b"one" * 10
        store.set_sync("c/0", buffer(b"two" * 10))
    plain.mapping["c/0"] = b"by hand"
    assert content(store.get_sync("c/0")) == b"two" * 10 or content(store.get_sync("c/0")) == b"by hand"
    store.get_sync("c/1")
    plain.mapping["c/1"] = b"by hand"
    assert content(store.get_sync("c/1")) == b"one" * 10  # kept
    store.close()


@pytest.mark.parametrize("kind", ["sqlite", "lmdb", "shm"])
def test_a_cache_whose_place_is_removed_is_done_without(kind: str, tmp_path: Path, shm_name: str) -> None:
    """The file, or the folder that both it and its lock lie in: hits, misses, writes and `close` go on."""
    if kind != "sqlite":
        require("lmdb")
    folder = tmp_path / "cache"
    folder.mkdir()
    url = {"sqlite": f"sqlite:////{folder}/c.db", "lmdb": f"lmdb:////{folder}/c", "shm": f"shm://{shm_name}"}[kind]
    store: Any = open_store(f"sqlite:////{tmp_path}/x.db", cache=url)
    store.set_sync("c/0", buffer(b"1"))
    assert [content(store.get_sync("c/0")) for _ in range(2)] == [b"1", b"1"]
    if kind == "shm":
        pickle.loads(pickle.dumps(store.cache.mapping)).destroy()
    shutil.rmtree(folder)
    assert content(store.get_sync("c/0")) == b"1"
    store.set_sync("c/0", buffer(b"2"))
    assert [content(store.get_sync("c/0")) for _ in range(2)] == [b"2", b"2"]
    store.close()


def test_a_lock_that_is_a_link_is_not_followed_and_done_without(tmp_path: Path) -> None:
    """Whoever may write to the folder could have made it: the file that it leads to keeps its content and its time."""
    victim = tmp_path / "thesis.tex"
    victim.write_bytes(b"years of work")
    os.utime(victim, (1, 1))
    (tmp_path / ".c.db.zarrstream-cache").symlink_to(victim)
    store: Any = open_store(f"sqlite:////{tmp_path}/x.db", cache=f"sqlite:////{tmp_path}/c.db")
    store.set_sync("c/0", buffer(b"1"))
    store.get_sync("c/0")
    store.set_sync("c/0", buffer(b"2"))
    assert content(store.get_sync("c/0")) == b"2"
    assert (victim.read_bytes(), victim.stat().st_mtime) == (b"years of work", 1)
    store.close()


def test_a_place_that_is_no_cache_is_refused_in_words(tmp_path: Path) -> None:
    """An archive, a dictionary, a database of other machines: the error says where a cache may be."""
    for mapping in (ZipMapping(tmp_path / "c.zip"), ForeignMapping({})):
        with pytest.raises(StoreOptionError, match="is kept where processes of this machine share it"):
            ChunkCache(mapping)
    with pytest.raises(StoreOptionError, match="is kept where processes of this machine share it"):
        open_store(f"sqlite:////{tmp_path}/x.db", cache=f"zip:////{tmp_path}/c.zip")
    with pytest.raises(StoreOptionError, match="its own cache"):
        open_store(f"sqlite:////{tmp_path}/x.db", cache=f"sqlite:////{tmp_path}/x.db")


@pytest.mark.parametrize("kind", ["a folder", "garbage", "no folder"])
def test_a_cache_that_cannot_be_opened_is_done_without(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder in its file's place, a file of something else, no folder to lie in: reads and writes go on."""
    place = tmp_path / "cache" / "c.db" if kind == "no folder" else tmp_path / "c.db"
    if kind == "a folder":
        place.mkdir()
    elif kind == "garbage":
        place.write_bytes(b"no database at all" * 100)
    store: Any = open_store(f"sqlite:////{tmp_path}/x.db", cache=f"sqlite:////{place}")
    for value in (b"1", b"2"):
        store.set_sync("c/0", buffer(value))
        assert [content(store.get_sync("c/0")) for _ in range(2)] == [value, value]
    assert caplog.text.count("is done without") == 1
    store.close()
