"""How much time a call has left: told by whoever waits for it, asked by whoever can end it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, TypeVar, overload

from zarrstream.concurrency.context import give_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_end: ContextVar[float | None] = ContextVar("zarrstream_deadline", default=None)


@contextmanager
def until(seconds: float | None) -> Iterator[None]:
    """Give what is called within so many seconds, or fewer where there were fewer; None gives what there was.

    Parameters
    ----------
    seconds : float or None
        From now on. A context variable carries it: into threads by `asyncio.to_thread`.
    """
    token = _end.set(_sooner(seconds))
    try:
        yield
    finally:
        give_back(_end, token)


def call_until(seconds: float | None, work: Callable[[], T]) -> T:
    """Return what a function returns that is called with so many seconds, as `until` gives them.

    Whatever a signal handler raises, and wherever, nobody's deadline stays behind: it lies in a context of the call's
    own, which nothing has to give back.

    Parameters
    ----------
    seconds : float or None
        From now on.
    work : callable
        What is called, in this thread.
    """
    return copy_context().run(_called, _sooner(seconds), work)


def _called(end: float | None, work: Callable[[], T]) -> T:
    _end.set(end)
    return work()


def _sooner(seconds: float | None) -> float | None:
    end = _end.get()
    if seconds is None:
        return end
    mine = time.monotonic() + seconds
    return mine if end is None else min(end, mine)


def remaining() -> float | None:
    """Return how many seconds are left, 0 where none are; None where nobody has said."""
    end = _end.get()
    return None if end is None else max(0.0, end - time.monotonic())


@overload
def at_most(seconds: float) -> float: ...
@overload
def at_most(seconds: float | None) -> float | None: ...
def at_most(seconds: float | None) -> float | None:
    """Return a time-out (None for none), or what is left, where that is less."""
    left = remaining()
    if seconds is None or left is None:
        return left if seconds is None else seconds
    return min(seconds, left)
