"""Single flight: equal calls of one moment run once, across threads and event loops."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")
_PATIENCE = 0.25  # seconds within which an event loop that is not blocked runs a callback


class _Flight(Generic[T]):
    """One call under way.

    Attributes
    ----------
    loop : asyncio.AbstractEventLoop or None
        What it runs on; None for a thread's own call.
    thread : int
        Which thread that is, or runs the loop.
    caller : object
        Which task or thread it is for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.caller: object = self.thread if loop is None else asyncio.current_task(loop)
        self.found: Future[T | None] = Future()

    def heartbeat(self) -> Future[None] | None:
        """Return what is done as soon as the loop runs on, at once for a thread; None where it never will."""
        beat: Future[None] = Future()
        if self.loop is None:
            beat.set_result(None)
            return beat
        try:
            self.loop.call_soon_threadsafe(beat.set_result, None)
        except RuntimeError:  # it is closed
            return None
        return beat


class Flights(Generic[T]):
    """What is being asked in this process. The first who asks does the work, and the others wait for what it brings.

    Where the first is cancelled or fails, the others ask by themselves: a failure is nobody else's. So they do where
    the first runs on an event loop that is blocked: by a synchronous call, say, that waits for one of them.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._flying: dict[Hashable, _Flight[T]] = {}

    def _join(self, what: Hashable, loop: asyncio.AbstractEventLoop | None) -> tuple[_Flight[T], bool]:
        """Return the flight, and whether it is the caller's own."""
        if self._process != os.getpid():
            self._begin()  # those that the parent waits for
        flight: _Flight[T] = _Flight(loop)
        with self._guard:
            flying = self._flying.setdefault(what, flight)
            return flying, flying is flight

    def _land(self, what: Hashable, flight: _Flight[T], found: T | None) -> None:
        with self._guard:
            if self._flying.get(what) is flight:
                del self._flying[what]
        flight.found.set_result(found)

    async def ask(self, what: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Return what ``work`` brings, or what it brings to somebody who has asked the same and still waits."""
        loop = asyncio.get_running_loop()
        flight, mine = self._join(what, loop)
        if not mine:
            found = None if flight.caller is asyncio.current_task() else await self._wait(flight, loop)
            return await work() if found is None else found
        found = None
        try:
            found = await work()
            return found
        finally:
            self._land(what, flight, found)

    async def _wait(self, flight: _Flight[T], loop: asyncio.AbstractEventLoop) -> T | None:
        # Whoever is cancelled here takes nothing away from the others.
        found = asyncio.wrap_future(flight.found)
        if flight.loop is loop or flight.loop is None:
            return await asyncio.shield(found)
        while (beat := flight.heartbeat()) is not None:
            await asyncio.wait([found], timeout=_PATIENCE)
            if found.done():
                return await found
            if not beat.done():
                break
        return None

    def ask_sync(self, what: Hashable, work: Callable[[], T]) -> T:
        """Do the same in the calling thread. See `ask`."""
        flight, mine = self._join(what, None)
        if not mine:
            found = self._wait_sync(flight)
            return work() if found is None else found
        found = None
        try:
            found = work()
            return found
        finally:
            self._land(what, flight, found)

    def _wait_sync(self, flight: _Flight[T]) -> T | None:
        if flight.thread == threading.get_ident():
            return None  # it goes on when this call has returned, and not before
        while (beat := flight.heartbeat()) is not None:
            wait([flight.found], timeout=None if flight.loop is None else _PATIENCE, return_when=FIRST_COMPLETED)
            if flight.found.done():
                return flight.found.result()
            if not beat.done():
                break
        return None
