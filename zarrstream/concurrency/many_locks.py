"""Several locks taken at once, and given back whatever a signal handler raises meanwhile."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import compress
from operator import methodcaller
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

_RELEASE = methodcaller("release")


class ManyLocks:
    """Locks that are taken one after the other and given back in one step.

    Notes
    -----
    Python runs signal handlers, which may raise, after any call that it makes itself. So a lock is taken, and noted as
    taken, in one call of C; and all that are noted are given back in another. Make it before the ``try``, take within,
    and call `release` first of all in the ``finally``.

    Attributes
    ----------
    release : callable
        Gives all locks back that were taken. A second call does nothing.
    """

    def __init__(self) -> None:
        self._locks: list[threading.Lock | threading.RLock] = []
        self._taken: list[bool] = []
        self.release: Callable[[], object] = partial(deque, map(_RELEASE, compress(self._locks, self._taken)), maxlen=0)

    def take(self, lock: threading.Lock | threading.RLock, seconds: float = -1) -> bool:
        """Take one more, waiting at most so many seconds; return whether it was had."""
        self._locks.append(lock)
        self._taken.extend(map(methodcaller("acquire", timeout=seconds), (lock,)))
        return self._taken[-1]
