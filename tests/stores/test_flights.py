"""Single flight beside loops that are blocked: a thread never waits for what its own loop has to do."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from tests.values import PROTOTYPE
from zarrstream import open_store, stream_chunks
from zarrstream.stores.flights import Flights, _Flight

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path


async def one() -> bytes:
    return b"1"


@pytest.mark.parametrize("way", ["here", "a thread", "another loop"])
def test_who_blocks_a_loop_asks_by_himself_for_what_a_task_of_it_asks(way: str) -> None:
    """The task goes on when the loop is free again, and the call has returned by then."""
    flights: Flights[bytes] = Flights()

    async def main() -> None:
        goes_on = asyncio.Event()

        async def first() -> bytes:
            await goes_on.wait()
            return b"1"

        task = asyncio.create_task(flights.ask("what", first))
        await asyncio.sleep(0)
        found: list[bytes] = []
        if way == "here":
            found.append(flights.ask_sync("what", lambda: b"2"))
        else:

            async def ask() -> None:
                found.append(await flights.ask("what", one))

            thread = threading.Thread(
                target=(lambda: found.append(flights.ask_sync("what", lambda: b"2")))
                if way == "a thread"
                else (lambda: asyncio.run(ask()))
            )
            thread.start()
            thread.join(30)  # on the loop's own thread: it is blocked
        assert found
        goes_on.set()
        assert await task == b"1"

    asyncio.run(main())


def test_a_loop_that_runs_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task brings one answer for the thread, too, however often the thread has looked whether the loop runs on."""
    flights: Flights[bytes] = Flights()
    monkeypatch.setattr("zarrstream.stores.flights._PATIENCE", 0.001)
    heartbeat = _Flight.heartbeat

    async def main() -> None:
        goes_on, loop = asyncio.Event(), asyncio.get_running_loop()
        beats: list[Future[None]] = []

        def beaten(flight: _Flight[bytes]) -> Future[None] | None:
            beat = heartbeat(flight)
            assert beat is not None
            beat.result(30)  # however busy the machine is
            beats.append(beat)
            if len(beats) == 3:
                loop.call_soon_threadsafe(goes_on.set)
            return beat

        async def first() -> bytes:
            await goes_on.wait()
            return b"1"

        monkeypatch.setattr(_Flight, "heartbeat", beaten)
        task = asyncio.create_task(flights.ask("what", first))
        await asyncio.sleep(0)
        asked = asyncio.create_task(asyncio.to_thread(flights.ask_sync, "what", lambda: b"2"))
        assert await asked == b"1"
        assert await task == b"1"
        assert len(beats) >= 3

    asyncio.run(main())


def test_a_call_within_the_same_call_waits_for_nobody() -> None:
    """A store that is cached twice by one cache asks for the same within its own question."""
    flights: Flights[bytes] = Flights()
    assert flights.ask_sync("what", lambda: flights.ask_sync("what", lambda: b"1")) == b"1"

    async def twice() -> bytes:
        return await flights.ask("what", lambda: flights.ask("what", one))

    assert asyncio.run(twice()) == b"1"


def test_what_a_closed_loop_was_asked_is_asked_again() -> None:
    """Nobody is left there who could answer."""
    flights: Flights[bytes] = Flights()
    loop = asyncio.new_event_loop()

    async def never() -> bytes:
        await asyncio.Event().wait()
        return b""

    task = loop.create_task(flights.ask("what", never))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert flights.ask_sync("what", lambda: b"1") == b"1"
    assert asyncio.run(flights.ask("what", one)) == b"1"
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what the test is about
    task.get_coro().close()  # type: ignore[union-attr]  # it has one


def test_a_stream_on_a_running_loop_reads_what_a_task_of_that_loop_reads(tmp_path: Path) -> None:
    """Behind a cache, too: it blocks the loop, and does not wait for it."""
    url = f"sqlite:////{tmp_path}/x.db"
    zarr.create_array(open_store(url), shape=8, chunks=2, dtype="i4")[:] = np.arange(8)
    slow = open_store(f"faulty+{url}", cache=f"sqlite:////{tmp_path}/c.db")
    array = zarr.open_array(slow, mode="r")

    async def main() -> None:
        mapping = slow._store.mapping  # type: ignore[attr-defined]  # a MappingStore's
        held = mapping.hold("get", "c/0")
        task = asyncio.create_task(slow.get("c/0", PROTOTYPE))
        await asyncio.wrap_future(held.arrived)
        held.release()
        assert [chunk.data.tolist() for chunk in stream_chunks(array, timeout=60)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert await task is not None

    asyncio.run(main())
    slow.close()
