"""A limit of calls is one for all threads, loops and stores of a place, and bends to throttling."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from zarr.storage import MemoryStore

from tests.optional import require
from tests.values import buffer
from zarrstream import ResilientStore, Retry
from zarrstream.errors import (
    StoreUnavailableError,
)
from zarrstream.mappings.faults import Fault
from zarrstream.stores.faulty import FaultyStore
from zarrstream.stores.limits import limit_of

require("tenacity")
QUICK = Retry(attempts=4, base=0.001, cap=0.002)


class Counting(MemoryStore):
    """Counts how many calls are under way."""

    place = "counted"
    peak = busy = 0
    guard = threading.Lock()

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        with self.guard:
            self.busy += 1
            self.peak = max(self.peak, self.busy)
        await asyncio.sleep(0.005)
        with self.guard:
            self.busy -= 1


def test_a_limit_is_one_for_all_loops_threads_and_stores_of_a_place() -> None:
    """Ten threads with a loop each, and ten calls in each: never more than four at once, and four there are."""
    inner = Counting()
    stores = [ResilientStore(inner, max_concurrency=4) for _ in range(10)]

    async def work(store: ResilientStore) -> None:
        await asyncio.gather(*(store.get(f"k{number}") for number in range(10)))

    threads = [threading.Thread(target=lambda store=store: asyncio.run(work(store))) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.peak == 4
    assert stores[0].limit.busy == 0


def test_who_is_cancelled_while_waiting_gives_the_place_up() -> None:
    inner = Counting()
    store = ResilientStore(inner, max_concurrency=1)

    async def work() -> None:
        calls = [asyncio.ensure_future(store.get(f"k{number}")) for number in range(10)]
        await asyncio.sleep(0)
        for call in calls[1:9]:
            call.cancel()
        await asyncio.wait(calls)
        assert not calls[9].cancelled()

    asyncio.run(work())
    assert store.limit.busy == 0


def test_throttling_halves_the_limit_and_success_restores_it() -> None:
    slow_down = StoreUnavailableError("asks for fewer requests")
    slow_down.throttled = True
    inner = FaultyStore(MemoryStore(), Fault(kind="error", operation="get", nth=1, error=lambda _: slow_down))
    store = ResilientStore(inner, retry=QUICK, max_concurrency=16)

    async def work() -> None:
        for number in range(16):
            await store.set(f"k{number}", buffer(b""))
        await asyncio.gather(*(store.get(f"k{number}") for number in range(16)))
        halved = store.limit.room
        assert halved < 12
        for _ in range(20):
            await asyncio.gather(*(store.get(f"k{number}") for number in range(16)))
        assert store.limit.room == 16

    asyncio.run(work())


def test_a_place_without_a_limit_that_throttles_gets_more_again() -> None:
    """Where nobody has said how many, what was halved grows with each success all the same."""
    limit = limit_of("throttling place", max_concurrency=None, rate=None)
    limit.throttled()
    halved = limit.room
    for _ in range(10):
        with limit:
            pass
    assert halved == 1
    assert limit.room > 3


def test_a_rate_spaces_the_beginnings_over_stores_and_loops() -> None:
    """Twenty calls at 100 a second take 0.19 s or more, however many ask at once."""
    stores = [ResilientStore(MemoryStore(), rate=100.0) for _ in range(2)]
    shared = stores[0].limit
    stores[1].limit = shared

    async def work() -> None:
        await asyncio.gather(*(store.get("k") for store in stores for _ in range(5)))

    began = time.monotonic()
    asyncio.run(work())
    asyncio.run(work())
    assert time.monotonic() - began >= 0.18
    assert shared.busy == 0


def test_the_smaller_of_two_limits_counts() -> None:
    first = limit_of("some place", max_concurrency=8, rate=None)
    assert limit_of("some place", max_concurrency=3, rate=10.0) is first
    assert (first.size, first.rate) == (3, 10.0)
    assert limit_of("another", max_concurrency=None, rate=None) is not first
