"""Calls are made again where that helps, end in time, and are never too many: seen at the server's side."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from zarr.storage import MemoryStore

from tests.optional import require
from tests.values import buffer
from zarrstream import MappingStore, ResilientStore, Retry, open_store
from zarrstream.concurrency.deadline import at_most, remaining, until
from zarrstream.errors import (
    StoreAccessError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreTimeoutError,
)
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.wrappers.retry import passes
from zarrstream.testing import StoreLaws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

require("tenacity")
QUICK = Retry(attempts=4, base=0.001, cap=0.002)


class TestLaws(StoreLaws):
    """A wrapped store is a store like the one inside, its synchronous methods included."""

    @pytest.fixture
    def mapping(self, tmp_path: Path) -> SQLiteMapping:
        return SQLiteMapping(tmp_path / "x.db")

    @pytest.fixture
    async def store(self, store_kwargs: dict[str, Any]) -> Any:
        made = ResilientStore(MappingStore(**store_kwargs), retry=QUICK, max_concurrency=4)
        yield made
        made.close()

    @pytest.fixture
    def open_kwargs(self, store_kwargs: dict[str, Any]) -> dict[str, Any]:
        return store_kwargs

    def test_store_repr(self, store: Any) -> None:
        assert repr(store).startswith("ResilientStore(MappingStore(")
        assert str(store) == store.place

    # These make a second one by the class's own names.
    test_store_open_read_only = test_with_read_only_store = test_read_only_store_raises = None
    test_store_context_manager = test_store_type = test_store_eq = test_get_not_open = test_set_not_open = None


# -- what is made again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False])
def test_a_failure_that_passes_is_made_up_for_and_seen_to_be(sync: bool) -> None:
    """Twice it fails, the third attempt succeeds: three calls, and the value."""
    mapping = FaultyMapping(
        {"k": b"1"}, *(Fault(kind="error", operation="get", nth=n, error=TimeoutError) for n in (1, 2))
    )
    store = ResilientStore(MappingStore(mapping), retry=QUICK)
    value = store.get_sync("k") if sync else asyncio.run(store.get("k"))
    assert value is not None
    assert value.to_bytes() == b"1"
    assert mapping.count("get", "k") == 3


@pytest.mark.parametrize("error", [StoreAccessError("no"), StoreFullError("full"), ValueError("odd"), OSError("what")])
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    store = FaultyStore(MemoryStore(), Fault(kind="error", operation="get", error=lambda _: error))
    resilient = ResilientStore(store, retry=QUICK)
    with pytest.raises(type(error)):
        asyncio.run(resilient.get("k"))
    assert store.count("get") == 1
    assert not passes(error)


def test_the_last_failure_says_how_often_it_was_tried() -> None:
    store = FaultyStore(MemoryStore(), Fault(kind="error", operation="set", error=ConnectionResetError))
    with pytest.raises(ConnectionResetError) as caught:
        asyncio.run(ResilientStore(store, retry=QUICK).set("k", buffer(b"1")))
    assert store.count("set") == 4
    assert "after 4 attempts" in caught.value.__notes__[0]


def test_an_acknowledgement_that_was_lost_does_no_harm() -> None:
    """Each verb may be done twice: the second time ends as the first, also a conditional creation."""
    store = FaultyStore(
        MemoryStore(),
        *(Fault(kind="lost-acknowledgement", operation=verb, nth=1) for verb in ("set", "set_new", "delete")),
    )
    resilient = ResilientStore(store, retry=Retry(attempts=2, base=0))

    async def work() -> None:
        await resilient.set("k", buffer(b"1"))
        await resilient.set_if_not_exists("new", buffer(b"mine"))
        await resilient.delete("k")
        found = await resilient.get("new")
        assert found is not None
        assert found.to_bytes() == b"mine"
        assert not await resilient.exists("k")

    asyncio.run(work())
    assert [store.count(verb) for verb in ("set", "set_new", "delete")] == [2, 2, 2]


class Listing(MemoryStore):
    """Keys in order; every third one fails, once."""

    failed: set[str]

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for number in range(10):
            key = f"{prefix}{number}"
            if number % 3 == 2 and key not in self.failed:
                self.failed.add(key)
                raise ConnectionResetError(key)
            yield key


def test_a_listing_goes_on_where_it_failed() -> None:
    """No key is told twice, and none is left out."""
    store = Listing()
    store.failed = set()
    resilient = ResilientStore(store, retry=QUICK)

    async def keys() -> list[str]:
        return [key async for key in resilient.list_prefix("c/")]

    assert asyncio.run(keys()) == [f"c/{number}" for number in range(10)]
    assert len(store.failed) == 3


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": 1.5}, {"base": -1}, {"cap": "1"}, {"deadline": 0}, {"attempt_timeout": -2}],
)
def test_a_policy_that_is_none_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(options))):
        Retry(**options)


def test_a_policy_and_limits_go_along_in_a_pickle(tmp_path: Path) -> None:
    store = open_store(f"sqlite:////{tmp_path}/x.db", retry=QUICK, max_concurrency=3, rate=100.0)
    copy: Any = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert (copy.retry, copy.limit.size, copy.limit.rate) == (QUICK, 3, 100.0)
    assert copy.with_read_only(read_only=True).retry == QUICK
    assert "max_concurrency=3" in repr(copy)
    copy.close()


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_a_deadline_ends_a_call_that_hangs_and_leaves_nothing_running() -> None:
    """The request would never end; it is cancelled, which the leak checks see too."""
    store = FaultyStore(MemoryStore(), Fault(kind="hang", operation="get"))
    resilient = ResilientStore(store, retry=Retry(deadline=0.05, attempt_timeout=None))

    async def work() -> int:
        with pytest.raises(StoreTimeoutError, match=r"get 'k' of .* did not succeed within "):
            await resilient.get("k")
        return len(asyncio.all_tasks())

    assert asyncio.run(work()) == 1


def test_a_deadline_counts_all_attempts_and_pauses() -> None:
    """The message says how many there were and why the last one failed."""
    store = FaultyStore(MemoryStore(), Fault(kind="error", operation="get", error=ConnectionResetError))
    policy = Retry(attempts=1_000_000, base=0.001, cap=0.001, deadline=0.2)
    with pytest.raises(StoreTimeoutError, match=r"attempts; the last failure: "):
        asyncio.run(ResilientStore(store, retry=policy).get("k"))
    assert 2 < store.count("get") < 1_000_000


def test_time_that_is_left_reaches_the_thread_that_works() -> None:
    """A driver can end what an event loop cannot interrupt."""

    class Slow(dict[str, bytes]):
        seen: list[float | None]

        def __getitem__(self, key: str) -> bytes:
            self.seen.append(remaining())
            return super().__getitem__(key)

    slow = Slow(k=b"1")
    slow.seen = []
    store = ResilientStore(MappingStore(slow), retry=Retry(deadline=50, attempt_timeout=7))
    asyncio.run(store.get("k"))
    store.get_sync("k")
    assert all(left is not None and 6 < left <= 7 for left in slow.seen)
    assert remaining() is None
    with until(5), until(None), until(90):
        assert 4 < at_most(60) <= 5
    assert at_most(60) == 60


def test_a_store_error_says_whether_it_passes() -> None:
    assert not StoreError("what").passes
    assert StoreTimeoutError("late").passes
    assert passes(ConnectionResetError())
