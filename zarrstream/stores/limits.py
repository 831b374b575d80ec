"""One limit of requests per place and process, whatever the threads and event loops; it adapts to throttling."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from zarrstream.errors import StoreError, StoreOptionError, StoreTimeoutError
from zarrstream.mappings.deadlines import remaining

if TYPE_CHECKING:
    from collections.abc import Iterable

_CALM = 0.1  # seconds: the failures of one moment are one sign, not several


class Limit:
    """How many calls may be under way at a place, and how many may begin in a second: a context around each call.

    Attributes
    ----------
    size : int or None
        How many at most; None for any number.
    rate : float or None
        How many may begin per second; None for any number.
    room : float
        How many at present: a throttled call halves it, each successful one adds its part of one more
        (additive increase, multiplicative decrease: Chiu and Jain, 1989).
    busy : int
        How many are under way.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self.rate: float | None = None
        self.room = float("inf")
        self.forget()

    def forget(self) -> None:
        """Begin with no call under way: in a forked child, whose calls the parent's are not."""
        self.busy = 0
        self._guard = threading.Lock()
        self._waiting: deque[Future[None]] = deque()
        self._halved = 0.0
        self._next_start = 0.0

    def restrict(self, size: int | None, rate: float | None) -> None:
        """Take a store's wishes: among several stores at one place, the smaller number counts."""
        with self._guard:
            if size is not None:
                self.size = size if self.size is None else min(self.size, size)
                self.room = min(self.room, self.size)
            if rate is not None:
                self.rate = rate if self.rate is None else min(self.rate, rate)

    # -- taking and giving --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> None:
        """Wait for room, and for the turn that the rate gives; whoever is cancelled gives its place up."""
        if self._enters():
            return
        ticket = self._ticket()
        try:
            if not ticket.done():
                await asyncio.wrap_future(ticket)
            if pause := self._pause():
                await asyncio.sleep(pause)
        except BaseException:
            self._give_up(ticket)
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._ended(error)

    def __enter__(self) -> None:
        """Wait for room in this thread, for as long as the call has left.

        Raises
        ------
        StoreTimeoutError
            There was none in time.
        """
        if self._enters():
            return
        ticket, timeout = self._ticket(), remaining()
        try:
            ticket.result(timeout)
            time.sleep(self._pause())
        except FutureTimeoutError:
            self._give_up(ticket)
            raise StoreTimeoutError(
                f"none of {int(self.room)} calls at this place ended within {timeout:.3g} s: raise max_concurrency"
            ) from None
        except BaseException:
            self._give_up(ticket)
            raise

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._ended(error)

    def _enters(self) -> bool:
        """Take room, if there is some and nobody waits for it."""
        with self._guard:
            free = self.rate is None and not self._waiting and self.busy + 1 <= self.room
            self.busy += free
            return free

    def _ended(self, error: BaseException | None) -> None:
        """Count a call as ended, well or not."""
        if isinstance(error, StoreError) and error.throttled:
            self.throttled()
        elif error is None:
            self.succeeded()
        self._give()

    def _give(self) -> None:
        with self._guard:
            self.busy -= 1
            admitted = self._admit() if self._waiting else ()
        _wake(admitted)

    def succeeded(self) -> None:
        """Say that a call was answered."""
        most = float("inf") if self.size is None else float(self.size)
        if self.room >= most:
            return
        with self._guard:
            self.room = min(most, self.room + 1 / self.room)
            admitted = self._admit()
        _wake(admitted)

    def throttled(self) -> None:
        """Say that a call was refused for there being too many."""
        with self._guard:
            now = time.monotonic()
            if now - self._halved > _CALM:
                self._halved = now
                self.room = max(1.0, min(self.room, max(self.busy, 1)) / 2)

    def _ticket(self) -> Future[None]:
        ticket: Future[None] = Future()
        with self._guard:
            self._waiting.append(ticket)
            admitted = self._admit()
        _wake(admitted)
        return ticket

    def _admit(self) -> list[Future[None]]:
        """Take from the queue whom there is room for; the caller holds the guard, and wakes them without it."""
        admitted = []
        while self._waiting and self.busy + 1 <= self.room:
            ticket = self._waiting.popleft()
            if ticket.set_running_or_notify_cancel():
                self.busy += 1
                admitted.append(ticket)
        return admitted

    def _give_up(self, ticket: Future[None]) -> None:
        if not ticket.cancel():  # it was admitted
            self._give()

    def _pause(self) -> float:
        """Return how long to wait for one's turn, and take it."""
        if self.rate is None:
            return 0.0
        with self._guard:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 1 / self.rate
        return start - now


def is_number(value: object, kind: type[int | float], *, least: float) -> bool:
    """Return whether a value is a number of a kind, or an int where floats are asked for, and not too small."""
    return isinstance(value, kind | int) and not isinstance(value, bool) and value >= least


def _wake(admitted: Iterable[Future[None]]) -> None:
    for ticket in admitted:
        ticket.set_result(None)


_limits: WeakValueDictionary[str, Limit] = WeakValueDictionary()
_guard = threading.Lock()


def limit_of(place: str, *, max_concurrency: int | None, rate: float | None) -> Limit:
    """Return this process's limit of a place.

    Parameters
    ----------
    place : str
        What shares one: a bucket, a database.
    max_concurrency : int or None
        How many calls may be under way.
    rate : float or None
        How many may begin per second.

    Raises
    ------
    StoreOptionError
        Numbers that are none.
    """
    if max_concurrency is not None and not is_number(max_concurrency, int, least=1):
        raise StoreOptionError(f"max_concurrency is a number of requests, 1 or more, or None, not {max_concurrency!r}")
    if rate is not None and not (is_number(rate, float, least=0) and rate > 0):
        raise StoreOptionError(f"rate is a number of requests per second, more than 0, or None, not {rate!r}")
    with _guard:
        limit = _limits.get(place)
        if limit is None:
            limit = _limits[place] = Limit()
    limit.restrict(max_concurrency, rate)
    return limit


def _after_fork() -> None:
    global _guard  # noqa: PLW0603  # another thread of the parent may have held it
    _guard = threading.Lock()
    for limit in list(_limits.values()):
        limit.forget()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
