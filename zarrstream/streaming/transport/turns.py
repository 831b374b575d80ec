"""One worker at a time reads or writes small files, as long as they lie in memory.

Of two threads that do so side by side each waits for the interpreter lock after every system call, and the waking costs
more than the call. In turns, one reads a run while the other decodes. With a disk that takes its time side by side is
better: then nobody waits for a turn.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL_BYTES = 64 << 10  # chunks up to here cost more in calls than in copying and decoding
_PATIENCE = 0.01  # seconds: a worker that is stuck in a call holds nobody up
_FROM_MEMORY = 100e-6  # seconds that a small file in memory does not take
_SLOW_RUNS = 3  # in a row: one alone may be the machine's


class Turns:
    """Who reads, or writes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slow = 0

    @contextmanager
    def turn(self) -> Iterator[Turns]:
        """Wait for a turn, where there are turns, and a moment at the most."""
        mine = self._slow < _SLOW_RUNS and self._lock.acquire(timeout=_PATIENCE)
        try:
            yield self
        finally:
            if mine:
                self._lock.release()

    def took(self, seconds: float) -> None:
        """Take note of what one file took: where it takes long, there are no turns."""
        self._slow = self._slow + 1 if seconds > _FROM_MEMORY else 0
