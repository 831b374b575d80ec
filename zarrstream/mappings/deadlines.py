"""How much time a call has left: told by whoever waits for it, asked by whoever can end it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, overload

from zarrstream.concurrency.context import bound

if TYPE_CHECKING:
    from collections.abc import Iterator

_end: ContextVar[float | None] = ContextVar("zarrstream_deadline", default=None)


@contextmanager
def until(seconds: float | None) -> Iterator[None]:
    """Give what is called within so many seconds, or fewer where there were fewer; None gives what there was.

    Parameters
    ----------
    seconds : float or None
        From now on. A context variable carries it: into threads by `asyncio.to_thread`.
    """
    end = _end.get()
    if seconds is not None:
        mine = time.monotonic() + seconds
        end = mine if end is None else min(end, mine)
    with bound(_end, end):
        yield


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
