"""Equal questions of one moment are asked once, whatever the threads and event loops of those who ask."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")


class Flights(Generic[T]):
    """What is being asked in this process. The first who asks does the work, and the others wait for what it brings.

    Where the first is cancelled or fails, the others ask by themselves: a failure is nobody else's.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._flying: dict[Hashable, Future[T | None]] = {}

    def _join(self, what: Hashable) -> tuple[Future[T | None], bool]:
        """Return the flight, and whether it is the caller's own."""
        if self._process != os.getpid():
            self._begin()  # those that the parent waits for
        with self._guard:
            flight = self._flying.get(what)
            if flight is not None:
                return flight, False
            flight = self._flying[what] = Future()
            return flight, True

    def _land(self, what: Hashable, flight: Future[T | None], found: T | None) -> None:
        with self._guard:
            if self._flying.get(what) is flight:
                del self._flying[what]
        flight.set_result(found)

    async def ask(self, what: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Return what ``work`` brings, or what it brings to somebody who has asked the same and still waits."""
        flight, mine = self._join(what)
        if not mine:
            # Whoever is cancelled here takes nothing away from the others.
            found = await asyncio.shield(asyncio.wrap_future(flight))
            return await work() if found is None else found
        found = None
        try:
            found = await work()
            return found
        finally:
            self._land(what, flight, found)

    def ask_sync(self, what: Hashable, work: Callable[[], T]) -> T:
        """Do the same in the calling thread. See `ask`."""
        flight, mine = self._join(what)
        if not mine:
            found = flight.result()
            return work() if found is None else found
        found = None
        try:
            found = work()
            return found
        finally:
            self._land(what, flight, found)
