"""Locks that are taken one after the other and given back in one step, whatever a signal handler raises."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from zarrstream.concurrency.many_locks import ManyLocks


def is_free(lock: Any) -> bool:
    """Return whether another thread can take a lock."""
    found: list[bool] = []

    def take() -> None:
        if lock.acquire(blocking=False):
            found.append(True)
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(found)


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_all_that_were_taken_are_given_back(make: Any) -> None:
    """And those that were not had are left to who has them; a second release does nothing."""
    locks = [make() for _ in range(3)]
    held = ManyLocks()
    assert all(held.take(lock) for lock in locks)
    busy = threading.Lock()
    busy.acquire()
    assert not held.take(busy, 0.01)
    assert not any(map(is_free, locks))
    held.release()
    held.release()
    assert all(map(is_free, locks))
    assert not is_free(busy)
    busy.release()


def test_an_interrupt_anywhere_leaves_every_lock_free() -> None:
    """Raised wherever Python runs signal handlers, in turn: as a function begins, and as a call of C returns."""
    interrupted = 0
    for step in range(1, 40):
        locks = [threading.RLock() for _ in range(3)]
        steps = 0

        def profile(frame: Any, event: str, _: Any) -> None:
            nonlocal steps
            ours = frame.f_code.co_name == "work" or frame.f_code.co_filename.endswith("many_locks.py")
            if ours and event in {"call", "c_return"}:
                steps += 1
                if steps == step:  # noqa: B023  # it is used within this turn
                    raise KeyboardInterrupt

        def work() -> None:
            held = ManyLocks()
            try:
                for lock in locks:  # noqa: B023  # as above
                    held.take(lock)
            finally:
                held.release()

        sys.setprofile(profile)
        try:
            work()
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.setprofile(None)
        assert all(map(is_free, locks)), step
    assert interrupted > 10
