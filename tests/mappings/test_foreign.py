"""Mappings that are not ours: one lock, honest errors, and the refusal of what cannot work."""

from __future__ import annotations

import dbm.dumb
import importlib
import pickle
import shelve
import sqlite3
import sys
import threading
from collections import UserDict, defaultdict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import pytest
from zarr.core.buffer import cpu

from tests.optional import require
from tests.processes import in_child
from zarrstream import MappingStore
from zarrstream.errors import PartialWriteError, StoreError, StoreOptionError, StoreUnavailableError
from zarrstream.mappings.foreign import ForeignMapping

if TYPE_CHECKING:
    from pathlib import Path

ONE = cpu.Buffer.from_bytes(b"1")


def shelf_in(folder: Path) -> shelve.Shelf[bytes]:
    return shelve.Shelf(dbm.dumb.open(str(folder / "shelf"), "c"))


class Crowded(UserDict[str, bytes]):
    """Counts how many threads are in it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.peak = 0

    def __setitem__(self, key: str, value: bytes) -> None:
        self.inside += 1
        self.peak = max(self.peak, self.inside)
        threading.Event().wait(0.001)  # long enough for another thread to come in
        super().__setitem__(key, value)
        self.inside -= 1


def test_stores_around_one_mapping_share_its_lock() -> None:
    crowded = Crowded()
    stores = [MappingStore(crowded), MappingStore(crowded).with_read_only(read_only=False)]
    threads = [
        threading.Thread(target=store.set_sync, args=(str(number), ONE)) for number in range(8) for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (crowded.peak, len(crowded)) == (1, 8)


def test_the_lock_is_free_in_a_forked_child() -> None:
    """Though another thread held it when the fork came."""
    held, release = threading.Event(), threading.Event()

    class Slow(UserDict[str, bytes]):
        def __len__(self) -> int:
            held.set()
            release.wait()
            return super().__len__()

    store = MappingStore(Slow())
    thread = threading.Thread(target=lambda: len(store._bytes))
    thread.start()
    held.wait()
    try:
        in_child(lambda: store.set_sync("k", ONE))
    finally:
        release.set()
        thread.join()


def test_a_defaultdict_gains_nothing_by_reading() -> None:
    mapping: defaultdict[str, bytes] = defaultdict(bytes)
    assert MappingStore(mapping).get_sync("k") is None
    assert not mapping


def test_a_place_that_is_lost_is_an_error_not_an_absent_key(tmp_path: Path) -> None:
    """zict.File raises FileNotFoundError then, which zarr would take for "not stored"."""
    zict = require("zict")
    store = MappingStore(zict.File(tmp_path / "files"))
    store.set_sync("k", ONE)
    (tmp_path / "files").rename(tmp_path / "moved")
    with pytest.raises(StoreUnavailableError, match="lost its place"):
        store.get_sync("k")
    with pytest.raises(StoreUnavailableError, match="lost its place"):
        store.set_sync("l", ONE)


async def test_a_batch_that_breaks_off_says_what_was_written() -> None:
    class Small(UserDict[str, bytes]):
        def __setitem__(self, key: str, value: bytes) -> None:
            if len(self) == 2:
                raise RuntimeError("full")
            super().__setitem__(key, value)

    with pytest.raises(PartialWriteError, match="'c' was not written") as caught:
        await MappingStore(Small())._set_many([(key, ONE) for key in "abcd"])
    assert caught.value.written == ("a", "b")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert pickle.loads(pickle.dumps(caught.value)).written == ("a", "b")


def test_a_stored_bytearray_is_not_handed_out() -> None:
    inner = bytearray(b"1")
    store = MappingStore({"k": inner})  # type: ignore[dict-item]  # as zict.File gives
    found = store.get_sync("k")
    inner[:] = b"2"
    assert found is not None
    assert found.to_bytes() == b"1"


def test_a_shelf_writes_at_flush(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    store = MappingStore(shelf)
    assert not store.durable_on_write
    store.set_sync("k", ONE)
    store.flush()
    store.close()
    assert shelf["k"] == b"1"  # it is its owner's, and stays open
    shelf.close()


class ThreadBound(MutableMapping[bytes, bytes]):
    """Behaves as dbm.sqlite3 of Python 3.13: it works only in the thread that opened it."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")

    def __contains__(self, key: object) -> bool:
        self.connection.execute("SELECT 1")
        return False

    def __getitem__(self, key: bytes) -> bytes:
        raise KeyError(key)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.connection.execute("SELECT 1")

    def __delitem__(self, key: bytes) -> None:
        raise KeyError(key)

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def close(self) -> None:
        self.connection.close()


def test_a_shelf_that_is_bound_to_its_thread_is_refused() -> None:
    shelf: Any = shelve.Shelf(ThreadBound())
    with pytest.raises(StoreOptionError, match="only in the thread that opened it"):
        MappingStore(shelf)
    shelf.close()


if sys.version_info >= (3, 13):

    def test_a_shelf_on_dbm_sqlite3_is_refused(tmp_path: Path) -> None:
        """The real one, where Python has it."""
        shelf: Any = shelve.Shelf(importlib.import_module("dbm.sqlite3").open(tmp_path / "shelf", "c"))
        with pytest.raises(StoreOptionError, match=r"dbm\.sqlite3, which works only in the thread"):
            MappingStore(shelf)
        shelf.close()


def test_a_closed_shelf_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    shelf.close()
    with pytest.raises(StoreError, match="closed"):
        MappingStore(shelf)


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match="mutable mapping"):
        MappingStore([])  # type: ignore[arg-type]  # that is the mistake


async def test_a_dict_is_called_on_the_loop_and_others_in_a_thread() -> None:
    threads: list[threading.Thread] = []

    class Told(UserDict[str, bytes]):
        def __setitem__(self, key: str, value: bytes) -> None:
            threads.append(threading.current_thread())
            super().__setitem__(key, value)

    assert MappingStore({})._bytes.never_blocks
    await MappingStore(Told()).set("k", ONE)
    assert threads[0] is not threading.current_thread()


def test_repr_shows_neither_content_nor_credentials() -> None:
    store = MappingStore({"password": b"secret"}, read_only=True)
    assert repr(store) == "MappingStore(ForeignMapping(<builtins.dict>), read_only=True)"
    assert str(store).startswith("mapping://")
    assert store.place is None


LOST = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
VERBS: dict[str, Any] = {
    "[]": lambda mapping: mapping["k"],
    "read": lambda mapping: mapping.read("k", 1),
    "get": lambda mapping: mapping.get("k"),
    "read_many": lambda mapping: mapping.read_many(["k"]),
    "size": lambda mapping: mapping.size("k"),
    "size_many": lambda mapping: mapping.size_many(["k"]),
    "set": lambda mapping: mapping.__setitem__("k", b"1"),
    "setdefault": lambda mapping: mapping.setdefault("k", b"1"),
    "update": lambda mapping: mapping.update({"k": b"1"}),
    "del": lambda mapping: mapping.__delitem__("k"),
    "discard": lambda mapping: mapping.discard("k"),
    "pop": lambda mapping: mapping.pop("k", None),
    "popitem": lambda mapping: mapping.popitem(),
    "in": lambda mapping: "k" in mapping,
    "iter": list,
    "len": len,
    "bool": bool,
    "children": lambda mapping: list(mapping.children("")),
    "clear": lambda mapping: mapping.clear(),
    "clear_under": lambda mapping: mapping.clear_under("k"),
    "flush": lambda mapping: mapping.flush(),
}


@pytest.mark.parametrize("error", LOST)
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_of_a_lost_mapping_says_absent(verb: str, error: type[OSError]) -> None:
    """zarr would answer with fill values; so would every layer that catches what "absent" is."""

    def lost(*_: Any) -> Any:
        raise error("it is gone")

    methods = ("getitem", "setitem", "delitem", "contains", "iter", "len", "bool")
    names = (*(f"__{name}__" for name in methods), "get", "pop", "setdefault", "update", "clear", "popitem", "sync")
    kind: Any = type("Lost", (MutableMapping,), dict.fromkeys(names, lost))
    mapping = ForeignMapping(kind())
    with pytest.raises(StoreUnavailableError, match="lost its place"):
        VERBS[verb](mapping)
