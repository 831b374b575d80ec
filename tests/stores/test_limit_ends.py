"""A place at a limit is given back whatever becomes of the caller: its loop, its thread, its process, its exception."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from zarr.storage import MemoryStore

from tests.interrupts import interruptions
from tests.optional import require
from tests.processes import in_child
from tests.stores.test_limits import Held, limit_with
from zarrstream import MappingStore, ResilientStore, Retry
from zarrstream.concurrency.deadline import call_until, remaining, until
from zarrstream.errors import StoreTimeoutError
from zarrstream.stores.slots import call_within

require("tenacity")


def begun(store: ResilientStore, count: int) -> tuple[asyncio.AbstractEventLoop, list[asyncio.Task[Any]]]:
    """Return a loop that has stopped, and calls that are pending on it."""
    loop = asyncio.new_event_loop()

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(store.get("k")) for _ in range(count)]
        await asyncio.sleep(0)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own word on a dead loop
        return tasks

    return loop, loop.run_until_complete(begin())


def test_callers_of_a_loop_that_is_garbage_have_no_place() -> None:
    """Those under way and those that waited are gone with the first collection."""
    store = ResilientStore(Held(), retry=Retry(), max_concurrency=4)
    loop, tasks = begun(store, 40)
    assert (store.limit.busy, len(store.limit.waiting)) == (4, 36)
    loop.close()
    del loop, tasks
    gc.collect()
    assert store.limit.busy == 0
    with until(20), store.limit.slot():
        assert store.limit.busy == 1
    assert not store.limit.waiting


def test_callers_of_a_closed_loop_have_no_place_though_somebody_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is closed goes on with nothing: whoever waits elsewhere takes the place."""
    monkeypatch.setattr("zarrstream.stores.limits._BEAT", 0.01)
    store = ResilientStore(Held(), retry=Retry(), max_concurrency=4)
    loop, tasks = begun(store, 40)
    loop.close()
    with until(20), store.limit.slot():
        assert store.limit.busy == 1
    assert len(tasks) == 40


def test_callers_of_a_stopped_loop_get_the_place_when_it_runs_again() -> None:
    """Meanwhile whoever came later is served."""
    store = ResilientStore(MemoryStore(), max_concurrency=1)
    mine = store.limit.slot()
    with mine:
        loop, tasks = begun(store, 3)
    with until(20), store.limit.slot():
        pass
    loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), 20))
    loop.close()
    assert (store.limit.busy, len(store.limit.waiting)) == (0, 0)


def test_a_task_that_waits_is_kept_by_its_loop_alone() -> None:
    """One that nobody else holds is not collected while its loop runs."""

    async def work() -> None:
        limit, done = limit_with(1), []

        async def call() -> None:
            async with limit.slot():
                done.append(1)

        async with limit.slot():
            for _ in range(10):
                asyncio.ensure_future(call())  # noqa: RUF006  # which is what this is about
            await asyncio.sleep(0)
            gc.collect()
        async with limit.slot():
            assert len(done) == 10

    asyncio.run(work())


class Blocking(dict[str, bytes]):
    """Answers when it is told to, and counts who asks."""

    place = "blocking://x"

    def __init__(self) -> None:
        super().__init__(k=b"1")
        self.go = threading.Event()
        self.asked = 0

    def __getitem__(self, key: str) -> bytes:
        self.asked += 1
        assert self.go.wait(20)
        return super().__getitem__(key)


def test_a_call_that_ended_by_time_is_under_way_until_its_thread_returns() -> None:
    """No attempt begins beside it, and the error says what it waited for."""
    mapping = Blocking()
    policy = Retry(attempts=5, base=0, cap=0, attempt_timeout=0.02, deadline=0.1)
    store = ResilientStore(MappingStore(mapping), retry=policy, max_concurrency=1)

    async def work() -> None:
        with pytest.raises(StoreTimeoutError, match="none of 1 calls at this place ended"):
            await store.get("k")
        assert (mapping.asked, store.limit.busy) == (1, 1)
        mapping.go.set()
        async with asyncio.timeout(20), store.limit.slot():
            assert store.limit.busy == 1

    asyncio.run(work())
    assert store.limit.busy == 0


def test_a_child_begins_with_no_call_under_way() -> None:
    """What the parent has begun ends in the parent, and leaves the child's numbers alone."""
    limit = limit_with(1)
    store = ResilientStore(MemoryStore(), max_concurrency=1)
    slot = store.limit.slot()

    def child() -> None:
        assert store.limit.busy == 0
        slot.leave(0)
        with until(20), store.limit.slot():
            slot.leave(0)
            assert store.limit.busy == 1

    with limit.slot(), slot:
        in_child(child)
        assert store.limit.busy == 1
    assert store.limit.busy == 0


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("rate", [None, 1e9])
def test_an_interrupted_call_keeps_no_place(full: bool, rate: float | None) -> None:
    """And no deadline: whatever a signal handler raises, wherever in the call, and although its traceback is kept."""
    limit = limit_with(2, rate)
    others = [limit.slot() for _ in range(2 if full else 1)]
    for other in others:
        other.__enter__()
    kept = []

    def work() -> None:
        try:
            call_until(0.0 if full else 20, lambda: call_within(limit.slot(), lambda: None, 10))
        except StoreTimeoutError:
            assert full

    for error in interruptions(work):
        kept.append(error)
        assert limit.busy == len(others)
        assert remaining() is None
    assert len(kept) > 5
    for other in others:
        other.__exit__(None, None, None)
    with until(20), limit.slot():
        assert limit.busy == 1
    assert (limit.busy, len(limit.waiting)) == (0, 0)
