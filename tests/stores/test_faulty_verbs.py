"""Each public method of zarr's Store is a call of the mock: recorded, and met by faults."""

from __future__ import annotations

import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import collect_aiterator
from zarr.storage import MemoryStore

from zarrstream import MappingStore, StoreUnavailableError
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROTOTYPE = default_buffer_prototype()
ONE = cpu.Buffer.from_bytes(b"1")
#: What makes a store, says what it is, or ends it.
HELPERS = {"open", "close", "with_read_only"}
VERBS: dict[str, Callable[[Any], Any]] = {
    "get": lambda store: store.get("a", PROTOTYPE),
    "get_partial_values": lambda store: store.get_partial_values(PROTOTYPE, [("a", None)]),
    "set": lambda store: store.set("a", ONE),
    "set_if_not_exists": lambda store: store.set_if_not_exists("b", ONE),
    "exists": lambda store: store.exists("a"),
    "getsize": lambda store: store.getsize("a"),
    "getsize_prefix": lambda store: store.getsize_prefix("d"),
    "delete": lambda store: store.delete("a"),
    "delete_dir": lambda store: store.delete_dir("d"),
    "clear": lambda store: store.clear(),
    "is_empty": lambda store: store.is_empty("d"),
    "list": lambda store: collect_aiterator(store.list()),
    "list_prefix": lambda store: collect_aiterator(store.list_prefix("d/")),
    "list_dir": lambda store: collect_aiterator(store.list_dir("d")),
    # Of zarr 3.2 and later; failures come as groups there.
    "get_ranges": lambda store: collect_aiterator(store.get_ranges("a", [RangeByteRequest(0, 1)], prototype=PROTOTYPE)),
    "get_ranges_sync": lambda store: store.get_ranges_sync("a", [RangeByteRequest(0, 1)], prototype=PROTOTYPE),
    # Ours.
    "get_sync": lambda store: store.get_sync("a", prototype=PROTOTYPE),
    "set_sync": lambda store: store.set_sync("a", ONE),
    "delete_sync": lambda store: store.delete_sync("a"),
    "flush": lambda store: store.flush(),
}


def test_every_method_is_tried() -> None:
    names = {name for name, _ in inspect.getmembers(Store, inspect.isroutine) if not name.startswith("_")}
    assert names <= set(VERBS) | HELPERS


async def _asked(store: FaultyStore, verb: str) -> None:
    found = VERBS[verb](store)
    if inspect.isawaitable(found):
        await found


@pytest.mark.parametrize("verb", [verb for verb in VERBS if hasattr(FaultyStore, verb)])
async def test_every_method_meets_faults_and_is_recorded(verb: str) -> None:
    inner = MappingStore({"a": b"1", "d/e": b"2"})
    store = FaultyStore(inner, Fault(kind="error"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # zarr 3.4 groups what ranges raise
        await _asked(store, verb)
    error = caught.value
    assert isinstance(error, StoreUnavailableError) or caught.group_contains(StoreUnavailableError)
    assert store.calls
    assert dict(inner.mapping) == {"a": b"1", "d/e": b"2"}


async def test_an_empty_folder_is_asked_for_as_any_listing() -> None:
    store = FaultyStore(MemoryStore(), Fault(kind="stale-listing", operation="list"))
    assert await store.is_empty("d")
    await store.set("d/e", ONE)
    assert await store.is_empty("d")
    store.mend()
    assert not await store.is_empty("d")
    assert not await store.is_empty("")
    assert store.count("list", "d") == 3


def test_a_store_that_publishes_does_so_through_the_mock(tmp_path: Path) -> None:
    """And a store that does not has nothing to do."""
    store = FaultyStore(MappingStore(ZipMapping(tmp_path / "x.zip")))
    assert not store.durable_on_write
    assert not pickle.loads(pickle.dumps(store)).durable_on_write
    store.set_sync("a", ONE)
    assert not (tmp_path / "x.zip").exists()
    store.flush()
    assert (tmp_path / "x.zip").exists()
    assert store.count("flush") == 1
    store.close()
    plain = FaultyStore(MemoryStore())
    assert plain.durable_on_write
    plain.flush()
