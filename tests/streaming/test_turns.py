"""Small files are read by one worker at a time, and nobody is held up by it."""

from __future__ import annotations

import threading

from zarrstream.streaming.transport import turns
from zarrstream.streaming.transport.turns import Turns


def test_one_reads_at_a_time() -> None:
    """Whoever has the turn is alone; the next has it when the first is through."""
    taken, alone = Turns(), []
    with taken.turn():
        other = threading.Thread(target=lambda: alone.append(taken._lock.acquire(blocking=False)))
        other.start()
        other.join(10)
    assert alone == [False]
    assert taken._lock.acquire(blocking=False)


def test_a_worker_that_is_stuck_holds_nobody_up() -> None:
    """A turn that does not end is not waited for."""
    taken, through = Turns(), threading.Event()
    with taken.turn():

        def next_one() -> None:
            with taken.turn():
                through.set()

        other = threading.Thread(target=next_one)
        other.start()
        assert through.wait(10)
        other.join(10)
    assert taken._lock.acquire(blocking=False)


def test_slow_files_are_read_side_by_side() -> None:
    """Three slow runs in a row end the turns, a fast one brings them back."""
    taken = Turns()
    for _ in range(turns._SLOW_RUNS):
        with taken.turn() as turn:
            assert taken._lock.locked()
            turn.took(0.005)
    with taken.turn() as turn:
        assert not taken._lock.locked()
        turn.took(1e-5)
    with taken.turn():
        assert taken._lock.locked()
