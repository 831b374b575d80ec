"""A lock per name, for threads and for the tasks of any event loop of one process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

from zarrstream.concurrency.fork import on_fork

if TYPE_CHECKING:
    from collections.abc import Hashable


class KeyLocks:
    """Locks by name, made when they are taken and gone when nobody holds or wants them.

    Notes
    -----
    *Order.* Who asks first has it first, thread or task. *Processes.* Each has its own; a forked child begins with none
    taken. *Release.* Any thread may release what another one took: a job may go through several.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[Hashable, deque[Future[None]]] = {}

    def acquire(self, name: Hashable) -> None:
        """Wait in the calling thread until a lock is free, and take it."""
        turn = self._enter(name)
        if turn is not None:
            try:
                turn.result()
            except BaseException:
                self._withdraw(name, turn)
                raise

    async def aacquire(self, name: Hashable) -> None:
        """Wait in a task until a lock is free, and take it."""
        turn = self._enter(name)
        if turn is not None:
            try:
                await asyncio.wrap_future(turn)
            except BaseException:
                self._withdraw(name, turn)
                raise

    def release(self, name: Hashable) -> None:
        """Give a lock to whoever waited longest."""
        with self._guard:
            self._pass_on(name)

    def _pass_on(self, name: Hashable) -> None:
        # A function of its own: within the `with`, CPython would take its loop for outside of it.
        waiting = self._waiting[name]
        while waiting:
            turn = waiting.popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return
        del self._waiting[name]

    def _enter(self, name: Hashable) -> Future[None] | None:
        """Take a free lock, or return the future of a turn."""
        with self._guard:
            waiting = self._waiting.get(name)
            if waiting is None:
                self._waiting[name] = deque()
                return None
            turn: Future[None] = Future()
            waiting.append(turn)
            return turn

    def _withdraw(self, name: Hashable, turn: Future[None]) -> None:
        """Give up a turn; one that came at this very moment goes on to the next."""
        turn.cancel()
        try:
            turn.result()
        except CancelledError:
            return
        self.release(name)

    def clear(self) -> None:
        """Forget all locks: a forked child has none of the threads that hold them."""
        self._guard = threading.Lock()
        self._waiting = {}


#: Held while a stored object of an array is read, merged and written: by (store, key), whichever stream does it.
merging = KeyLocks()

on_fork(80, child=merging.clear)
