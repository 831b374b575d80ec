"""One call's place at a limit: how it waits, in a thread or on an event loop, and when it is given back."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from zarrstream.concurrency.context import give_back
from zarrstream.concurrency.deadline import call_until, remaining
from zarrstream.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from typing import Self
    from weakref import ref

P = ParamSpec("P")
T = TypeVar("T")


class Gate(Protocol):
    """The limit, as a slot sees it.

    Attributes
    ----------
    held : dict
        The slots of this process that are taken: by key, weakly.
    """

    held: dict[int, ref[Slot]]

    def admits(self, slot: Slot) -> bool:
        """Take room and a turn at once, if nobody waits for them."""

    def queue(self, slot: Slot) -> None:
        """Put a slot behind those that wait."""

    def settle(self) -> None:
        """Admit those that there is room and a turn for."""

    def pause(self, slot: Slot) -> float:
        """Return after how many seconds a waiting slot looks again."""

    def lack(self) -> str:
        """Return what there is none of."""

    def ended(self, error: BaseException | None) -> None:
        """Count a call as ended, well or not."""

    def leave(self, slot: Slot) -> None:
        """Take a slot out of the tables."""


class Slot:
    """One call's place at a limit: a context around the call, in a thread or awaited, once.

    Parameters
    ----------
    gate : Gate
        The limit.

    Attributes
    ----------
    key : int
        Its name in ``held``, the limit's table, while the call is under way.
    parts : set of int
        What is still under way: 0 is the caller's part, and each thread has one. Clearing it and removing the key from
        ``held`` gives the place back in steps that no signal handler's exception divides.
    begun : bool
        Whether the call has had its place.
    lacked : str
        What the call waits for, or has waited for in vain; empty once it is under way.

    Notes
    -----
    *Ends.* The limit knows its slots weakly, so that one whose thread or task is gone is nobody's any more. A task that
    waits is held by its event loop, in a timer, and ends with that loop. *Threads.* What an awaited call has left in a
    thread is under way until the thread returns: see `occupying`.
    """

    __slots__ = (
        "__weakref__",
        "_admitted",
        "_gate",
        "_loop",
        "_timer",
        "_token",
        "begun",
        "held",
        "key",
        "lacked",
        "parts",
    )

    def __init__(self, gate: Gate) -> None:
        self.key = id(self)
        self.held = gate.held
        self.begun = False
        self.lacked = ""
        self.parts = {0}
        self._gate = gate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._admitted: asyncio.Future[None] | threading.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._token: Token[Slot | None] | None = None

    @property
    def taken(self) -> bool:
        """Whether the call is under way."""
        return self.key in self.held

    # -- in a thread --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Wait for room and a turn, for as long as the call has left.

        Raises
        ------
        StoreTimeoutError
            There was none in time.
        """
        if not self._gate.admits(self):
            self._admitted = threading.Event()
            try:
                self._gate.queue(self)
                self._wait(self._admitted)
            except BaseException:
                self.leave(0)
                raise
        self.begun, self.lacked = True, ""
        return self

    def _wait(self, admitted: threading.Event) -> None:
        left = remaining()
        end = None if left is None else time.monotonic() + left
        while not self.taken:
            self.lacked = self._gate.lack()
            pause = self._gate.pause(self)
            if end is not None:
                pause = min(pause, end - time.monotonic())
                if pause <= 0:
                    raise StoreTimeoutError(f"within {left:.3g} s {self.lacked}, or Retry's deadline")
            admitted.wait(pause)
            admitted.clear()
            self._gate.settle()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._gate.ended(error)
        self.leave(0)

    # -- on an event loop ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Wait for room and a turn; whoever is cancelled gives both up."""
        self._loop = asyncio.get_running_loop()
        if not self._gate.admits(self):
            self._admitted = self._loop.create_future()
            try:
                self._gate.queue(self)
                self._beat()
                await self._admitted
            except BaseException:
                self.leave(0)
                raise
            finally:
                if self._timer is not None:
                    self._timer.cancel()
        self.begun, self.lacked = True, ""
        self._token = _current.set(self)
        return self

    def _beat(self) -> None:
        """Look whether it is time, and again later: what nobody tells, a waiter finds out."""
        assert self._loop is not None  # noqa: S101  # `__aenter__` calls it
        if self._timer is not None:
            self._timer.cancel()
        if self.taken:
            self._begin()  # whoever admitted it was interrupted before telling it
        elif 0 in self.parts:
            self._gate.queue(self)  # again, where its loop had stopped and runs now
            self.lacked = self._gate.lack()
            self._timer = self._loop.call_later(self._gate.pause(self), self._beat)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._token is not None:
            give_back(_current, self._token)
        self._gate.ended(error)
        self.leave(0)

    # -- told by the limit --------------------------------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Whether the event loop that would have gone on with the call is closed."""
        return self._loop is not None and self._loop.is_closed()

    @property
    def is_idle(self) -> bool:
        """Whether the call would not begin now, since its event loop has stopped."""
        return self._loop is not None and not self._loop.is_running()

    def wake(self) -> None:
        """Tell a waiter that it was admitted."""
        self._tell(self._begin)

    def nudge(self) -> None:
        """Tell a waiter that it is the first in the queue now."""
        self._tell(self._beat)

    def _tell(self, what: Callable[[], None]) -> None:
        if isinstance(self._admitted, threading.Event):
            self._admitted.set()
        elif self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(what)
            except RuntimeError:  # the loop was closed at this moment
                self.drop(0)
                self._gate.settle()

    def _begin(self) -> None:
        if isinstance(self._admitted, asyncio.Future) and not self._admitted.done():
            self._admitted.set_result(None)

    # -- the end ------------------------------------------------------------------------------------------------------

    def leave(self, part: int) -> None:
        """End a part, once or more often; the last gives the place to whoever waits for it."""
        self.parts.discard(part)
        if not self.parts:
            self._gate.leave(self)

    def drop(self, part: int) -> None:
        """End a part without telling anybody: the beat of whoever waits finds out."""
        self.parts.discard(part)
        if not self.parts:
            self.held.pop(self.key, None)

    def __del__(self) -> None:
        # Garbage is collected anywhere, also within the limit's own lock.
        try:  # noqa: SIM105  # at the end of each call: a context costs as much as the rest
            self.held.pop(self.key, None)
        except AttributeError:  # `__init__` was interrupted
            pass


class _Part:
    """A thread's part of a slot: it ends with the thread's work, or unused."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        slot.parts.add(id(self))

    def end(self) -> None:
        self._slot.leave(id(self))

    def __del__(self) -> None:
        with suppress(AttributeError):  # `__init__` was interrupted
            self._slot.drop(id(self))


def occupying(work: Callable[P, T]) -> Callable[P, T]:
    """Return a function for a thread: the call that hands it over is under way until it returns.

    An awaited call that ends by time leaves its thread at work. To the database that is a call like any other.

    Parameters
    ----------
    work : callable
        The thread's work.
    """
    slot = _current.get()
    if slot is None:
        return work
    part = _Part(slot)

    @wraps(work)
    def occupied(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        finally:
            part.end()

    return occupied


def call_within(slot: Slot, work: Callable[[], T], seconds: float | None = None) -> T:
    """Return what a function returns that is called in this thread, with a place at the limit and within some time.

    Parameters
    ----------
    slot : Slot
        The place.
    work : callable
        The call.
    seconds : float, optional
        Its time, from when it has the place.
    """
    try:
        with slot:
            return work() if seconds is None else call_until(seconds, work)
    finally:
        # An exception of a signal handler may come before the first line of `__exit__`, but not between these.
        slot.parts.clear()
        slot.held.pop(slot.key, None)


_current: ContextVar[Slot | None] = ContextVar("zarrstream_slot", default=None)
