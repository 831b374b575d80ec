"""A limit of calls is one for all threads, loops and stores of a place, and bends to throttling."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from zarr.storage import MemoryStore

from tests.optional import require
from tests.values import buffer
from zarrstream import ResilientStore, Retry
from zarrstream.concurrency.deadline import until
from zarrstream.errors import StoreTimeoutError, StoreUnavailableError
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.stores.limits import Limit, limit_of

require("tenacity")
QUICK = Retry(attempts=4, base=0.001, cap=0.002)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return what it was set to."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The limits' own clock."""
    made = Clock()
    monkeypatch.setattr("zarrstream.stores.limits.time", made)
    return made


class Meeting(MemoryStore):
    """Answers four calls at a time, when all four are there."""

    place = "meeting"

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.busy = 0
        self.guard = threading.Lock()
        self.meet = threading.Barrier(4)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        with self.guard:
            self.busy += 1
            self.peak = max(self.peak, self.busy)
        await asyncio.to_thread(self.meet.wait, 20)
        with self.guard:
            self.busy -= 1


class Held(MemoryStore):
    """Answers nobody."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        await asyncio.get_running_loop().create_future()


def limit_with(size: int | None = None, rate: float | None = None) -> Limit:
    """Return a limit that no store has."""
    limit = Limit()
    limit.restrict(size, rate)
    return limit


def test_a_limit_is_one_for_all_loops_threads_and_stores_of_a_place() -> None:
    """Ten threads with a loop each, and four calls in each: never more than four at once, and four there are."""
    inner = Meeting()
    stores = [ResilientStore(inner, max_concurrency=4) for _ in range(10)]

    async def work(store: ResilientStore) -> None:
        await asyncio.gather(*(store.get(f"k{number}") for number in range(4)))

    threads = [threading.Thread(target=lambda store=store: asyncio.run(work(store))) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.peak == 4
    assert stores[0].limit.busy == 0


def test_who_is_cancelled_while_waiting_gives_the_place_up() -> None:
    """Whoever comes after is next, and nothing is left of the others."""

    async def work() -> None:
        limit = limit_with(1)
        entered: list[int] = []

        async def call(number: int) -> None:
            async with limit.slot():
                entered.append(number)

        async with limit.slot():
            calls = [asyncio.ensure_future(call(number)) for number in range(10)]
            await asyncio.sleep(0)
            for one in calls[:9]:
                one.cancel()
            await asyncio.wait(calls[:9])
        await calls[9]
        assert entered == [9]
        assert (limit.busy, len(limit.waiting)) == (0, 0)

    asyncio.run(work())


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
    limit = limit_with()
    limit.throttled()
    halved = limit.room
    for _ in range(10):
        with limit.slot():
            pass
    assert halved == 1
    assert limit.room > 3


def test_the_smaller_of_two_limits_counts() -> None:
    first = limit_of("some place", max_concurrency=8, rate=None)
    assert limit_of("some place", max_concurrency=3, rate=10.0) is first
    assert (first.size, first.rate) == (3, 10.0)
    assert limit_of("another", max_concurrency=None, rate=None) is not first


# -- rates -------------------------------------------------------------------------------------------------------------


def test_a_rate_spaces_the_beginnings_over_stores_and_loops() -> None:
    """However many ask at once, the n-th begins no earlier than its turn; one that was late may be made up for."""
    limit, rate, began = limit_with(rate=500.0), 500.0, []

    async def call() -> None:
        async with limit.slot():
            began.append(time.monotonic())

    async def work() -> None:
        await asyncio.gather(*(call() for _ in range(10)))

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began.sort()
    assert len(began) == 20
    assert all(at - began[0] >= (number - 1.5) / rate for number, at in enumerate(began))
    assert limit.busy == 0


def test_a_cancelled_caller_keeps_no_turn(clock: Clock) -> None:
    """A hundred callers wait for their turns and leave: the next turn is the next caller's, and not the 102nd."""

    async def work() -> None:
        limit = limit_with(rate=0.01)

        async def call() -> None:
            async with limit.slot():
                pass

        await call()
        calls = [asyncio.ensure_future(call()) for _ in range(100)]
        await asyncio.sleep(0)
        assert len(limit.waiting) == 100
        for one in calls:
            one.cancel()
        await asyncio.wait(calls)
        assert not limit.waiting
        clock.now += 100
        await asyncio.wait_for(call(), 20)

    asyncio.run(work())


def test_the_first_of_the_queue_goes_when_the_one_before_it_leaves(clock: Clock) -> None:
    """Who waits behind callers that give up has their turn, and does not sleep for as long as they would have."""

    async def work() -> None:
        limit = limit_with(rate=0.01)

        async def call() -> None:
            async with limit.slot():
                pass

        await call()
        calls = [asyncio.ensure_future(call()) for _ in range(10)]
        await asyncio.sleep(0)
        clock.now += 100
        for one in calls[:9]:
            one.cancel()
        await asyncio.wait_for(calls[9], 20)

    asyncio.run(work())


def test_a_thread_waits_for_its_turn_no_longer_than_it_has_time() -> None:
    """The error says that it is the rate."""
    limit = limit_with(rate=0.001)
    with limit.slot():
        pass
    with until(0.01), pytest.raises(StoreTimeoutError, match=r"at 0\.001 calls per second: raise rate"), limit.slot():
        pass
    assert (limit.busy, len(limit.waiting)) == (0, 0)


@pytest.mark.parametrize(
    ("options", "said"), [({"max_concurrency": 1}, "raise max_concurrency"), ({"rate": 0.001}, "raise rate")]
)
def test_a_deadline_that_passes_while_waiting_names_what_was_waited_for(options: dict[str, Any], said: str) -> None:
    """Nobody is told to look at the network for a limit of their own."""
    store = ResilientStore(Held(), retry=Retry(deadline=0.05, attempts=1), **options)

    async def work() -> None:
        first = asyncio.ensure_future(store.get("a"))
        await asyncio.sleep(0)
        with pytest.raises(StoreTimeoutError, match=said):
            await store.get("b")
        with pytest.raises(StoreTimeoutError, match="look at the network"):
            await first

    asyncio.run(work())
    assert store.limit.busy == 0
