"""What a user asked for, checked once, and the numbers that follow from it. Nothing is read here."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from zarrstream.errors import ChunkError
from zarrstream.streaming.chunk import Progress

if TYPE_CHECKING:
    from zarrstream.streaming.chunk import Index

logger = logging.getLogger("zarrstream")

OnError: TypeAlias = Literal["raise", "skip"] | Callable[[ChunkError], object]
Filter: TypeAlias = "Callable[[Index], object]"
OnProgress: TypeAlias = Callable[[Progress], object]
Partial: TypeAlias = Literal["refuse", "merge"]

MAX_BYTES = 256 << 20
TIMEOUT = 120.0
REQUESTS = 16


@dataclass(frozen=True)
class Limits:
    """How much of a stream may be under way.

    Parameters
    ----------
    concurrency : int or None
        Threads on stores with synchronous methods, requests on others; None for the cores and for 16.
    timeout : float or None
        Seconds for one chunk; None for no limit.
    max_bytes : int
        Decoded bytes in flight.

    Raises
    ------
    TypeError, ValueError
        If one of them is not a positive number.
    """

    concurrency: int | None
    timeout: float | None
    max_bytes: int

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("max_bytes", 1)):
            value = getattr(self, name)
            if value is None and name == "concurrency":
                continue
            if not is_whole(value):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        object.__setattr__(self, "timeout", _seconds(self.timeout))

    @property
    def threads(self) -> int:
        """Threads that fetch and decode."""
        return self.concurrency or cores()

    @property
    def requests(self) -> int:
        """Requests under way on an awaited store."""
        return self.concurrency or REQUESTS


def _seconds(timeout: Any) -> float | None:
    """Return a time-out as a float; None where there is no limit, or one that no clock can wait for."""
    if timeout is None:
        return None
    if isinstance(timeout, (bool, str, bytes)) or not isinstance(timeout, (Real, np.number)):
        raise TypeError(f"timeout must be a number of seconds, or None for no limit, not {timeout!r}")
    seconds = float(timeout)
    if not seconds > 0:
        raise ValueError(f"timeout must be a positive number of seconds, or None for no limit, not {timeout!r}")
    return seconds if seconds < TIMEOUT_MAX else None


def is_whole(value: object) -> bool:
    """Whether something is a whole number, of Python's kind or numpy's, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_on_error(on_error: object) -> None:
    """Refuse an error policy that is none.

    Raises
    ------
    ValueError, TypeError
        If it is neither ``"raise"`` nor ``"skip"`` nor a plain callable.
    """
    if isinstance(on_error, str) and on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise', 'skip' or a callable, not {on_error!r}")
    if not isinstance(on_error, str):
        check_callable("on_error", on_error)


def policy_of(on_error: OnError) -> Callable[[ChunkError], object] | None:
    """What decides about a failed chunk: ``"retry"``, or anything else to skip it; None where it ends the stream."""
    if on_error == "raise":
        return None
    return _skip if on_error == "skip" else on_error


def _skip(error: ChunkError) -> None:
    logger.warning("skipped: %s", error)


def check_callable(name: str, value: object) -> None:
    """Refuse what cannot be called, and coroutine functions, whose answer would be lost.

    Raises
    ------
    TypeError
        If it is one of these.
    """
    if not callable(value) or any(map(_is_awaited, (value, type(value).__call__))):
        raise TypeError(f"{name} must be a plain callable, not {value!r}: it is called between two chunks")


def _is_awaited(value: object) -> bool:
    return inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)


def check_callables(**callables: Any) -> None:
    """Check those that are given; see `check_callable`."""
    for name, value in callables.items():
        if value is not None:
            check_callable(name, value)
