"""Probes that begin after the question, each shared by all who asked before it began."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable


class Probes:
    """The probes of one event loop.

    Notes
    -----
    What a probe found is told to those who wait for it, and kept for nobody: the next to ask gets another one.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[None]] = {}
        self._next: dict[Hashable, _Flight] = {}

    async def join(self, what: Hashable, probe: Callable[[], Awaitable[None]]) -> None:
        """Wait for a probe that begins after this call; raise what it raised.

        Parameters
        ----------
        what : hashable
            What is looked at: equal ones share a probe.
        probe : callable
            Looks at it, and raises where it is lost.
        """
        flight = self._next.get(what)
        if flight is None:
            flight = self._next[what] = _Flight()
            flight.task = asyncio.create_task(self._fly(what, flight, probe))
        flight.waiters += 1
        try:
            await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.waiters == 1:  # nobody else waits for it
                flight.task.cancel()
            raise
        finally:
            flight.waiters -= 1

    async def _fly(self, what: Hashable, flight: _Flight, probe: Callable[[], Awaitable[None]]) -> None:
        try:
            while (before := self._running.get(what)) is not None:
                await asyncio.wait([before])
        finally:
            if self._next.get(what) is flight:  # who asks from now on waits for the next one
                del self._next[what]
        self._running[what] = flight.task
        try:
            await probe()
        finally:
            del self._running[what]


class _Flight:
    """One probe, for all who wait for it."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.waiters = 0
