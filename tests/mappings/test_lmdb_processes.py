"""LMDB on disk and in shared memory, under many threads and processes: all is there, and whole, whoever is killed."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lmdb_tables import (
    KINDS,
    MIB,
    descriptors,
    hold_all_in_memory,
    killed_within,
    made,
    read_whole,
    rewrite,
)
from tests.processes import in_child, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import CodeType

    from zarrstream.mappings.lmdb import LMDBMapping


@pytest.fixture(params=KINDS)
def mapping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LMDBMapping]:
    yield from made(request.param, tmp_path, map_size=1 << 16)


# -- many write -------------------------------------------------------------------------------------------------------


def test_the_map_grows_while_threads_read_and_write(mapping: LMDBMapping) -> None:
    """Whoever finds it full waits for the transactions of this process, and then doubles it; nobody notices."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for index in range(40):
                mapping[f"{number}/{index}"] = bytes([number]) * 20_000
                assert mapping[f"{number}/{index // 2}"] == bytes([number]) * 20_000
                assert len(list(mapping.keys_under(f"{number}/"))) == index + 1
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(mapping) == 320
    assert mapping._share.environment.map_size >= 320 * 20_000


def test_a_value_larger_than_the_map_is_written(mapping: LMDBMapping) -> None:
    mapping["k"] = bytes(3 * MIB)
    assert mapping.size("k") == 3 * MIB
    assert mapping._share.environment.map_size == 4 * MIB


def test_what_others_let_grow_is_read(mapping: LMDBMapping) -> None:
    """The map of a process that reads is too small by then, and is resized once its own readers are done."""
    mapping["k"] = b"before"

    def work() -> None:
        mapping["k"] = bytes(4 * MIB)

    in_child(work)
    assert mapping.size("k") == 4 * MIB
    assert mapping._share.environment.map_size >= 4 * MIB
    assert mapping["k"] == bytes(4 * MIB)


# -- killed -----------------------------------------------------------------------------------------------------------


def test_a_hundred_writers_killed_in_their_transactions_leave_it_whole(mapping: LMDBMapping) -> None:
    """None of what they had written is there, none of their locks is left, and the next writes."""
    mapping["k"] = b"whole"
    for life in range(100):
        killed_within(mapping, write=True)
        mapping[f"life/{life % 7}"] = b"%d" % life
        assert mapping["k"] == b"whole"
        assert mapping[f"life/{life % 7}"] == b"%d" % life
    assert sorted(mapping) == ["k", *(f"life/{number}" for number in range(7))]


def test_killed_readers_hold_neither_slots_nor_pages(mapping: LMDBMapping) -> None:
    """Pages that a dead reader might read are used again, so that the database does not grow."""
    mapping.update_many({"k": bytes(50_000), "other": b""})
    for _ in range(10):
        mapping["k"] = bytes(50_000)
    before = mapping._share.environment.map_size
    for _ in range(5):
        killed_within(mapping, write=False)
        for _ in range(20):
            mapping["k"] = bytes(50_000)
    environment = mapping._share.environment
    assert environment.map_size <= 2 * before
    assert environment.handle is not None
    assert environment.handle.reader_check() == 0


# -- read by many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, pytest.param(60, marks=pytest.mark.slow)])
def test_no_read_is_torn(mapping: LMDBMapping, seconds: float) -> None:
    """One writer rewrites the same keys, and batches of them; four readers see whole values of one version."""
    keys, size = 4, 100_000
    mapping.update_many((f"k{number}", bytes([1]) * size) for number in range(keys))
    mapping["single"] = bytes([1]) * size
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=rewrite, args=(mapping, keys, size, stop))
    writer.start()
    try:
        run("spawn", read_whole, [(mapping, keys, size, seconds)] * 4)
    finally:
        stop.set()
        writer.join()
    assert writer.exitcode == 0
    writer.close()


def test_eight_processes_read_one_copy(mapping: LMDBMapping, tmp_path: Path) -> None:
    """What they are charged with, each page parted among them, is the data once, and a chunk for each."""
    count, folder = 48, tmp_path / "told"
    folder.mkdir()
    mapping.update_many((f"k{number}", bytes([number]) * MIB) for number in range(count))
    mapping.close()
    run("fork", hold_all_in_memory, [(mapping, count, folder, number, 8) for number in range(8)])
    shares = [int(path.read_text()) for path in folder.glob("share-*")]
    assert len(shares) == 8
    assert count * MIB * 0.9 < sum(shares) <= 1.2 * count * MIB + 8 * MIB


# -- forked -----------------------------------------------------------------------------------------------------------


def test_no_environment_is_carried_through_a_fork(mapping: LMDBMapping) -> None:
    mapping["k"] = b"1"
    assert descriptors(mapping) > 0

    def work() -> None:
        assert descriptors(mapping) == 0
        assert mapping["k"] == b"1"
        assert descriptors(mapping) > 0
        mapping["k"] = b"2"
        mapping.close()

    in_child(work)
    assert mapping["k"] == b"2"


def test_a_fork_waits_for_the_transactions_that_run(mapping: LMDBMapping) -> None:
    """A child never has another thread's open transaction, nor waits for its end."""
    mapping["k"] = b"1"
    within, go_on = threading.Event(), threading.Event()

    def slowly(transaction: Any) -> None:
        within.set()
        assert go_on.wait(60)
        transaction.put(b"k", b"2")

    thread = threading.Thread(target=lambda: mapping._share.call(slowly, write=True))
    thread.start()
    assert within.wait(60)
    release = threading.Timer(0.1, go_on.set)
    release.start()

    def work() -> None:
        assert go_on.is_set()
        assert mapping["k"] == b"2"
        mapping["k"] = b"3"
        mapping.close()

    in_child(work)
    thread.join()
    release.join()
    assert mapping["k"] == b"3"


def test_a_signal_handler_may_fork_or_close_in_the_midst_of_a_call(mapping: LMDBMapping) -> None:
    """The call that was interrupted is done again, in the environment as it is then."""
    mapping["k"] = b"1"
    attempts: list[bytes | None] = []

    def interrupted(transaction: Any) -> None:
        attempts.append(bytes(transaction.get(b"k")))
        if len(attempts) == 1:
            mapping.close()
            in_child(mapping.close)
        transaction.put(b"k", b"2")

    mapping._share.call(interrupted, write=True)
    assert (attempts, mapping["k"]) == ([b"1", b"1"], b"2")


def test_a_signal_handler_may_fork_in_a_write_that_others_wait_for(mapping: LMDBMapping) -> None:
    """Whoever waits for his turn holds nothing that the fork waits for."""
    mapping["k"] = b"1"
    waiting = threading.Thread(target=mapping.__setitem__, args=("waiting", b"2"))
    attempts: list[str] = []

    def interrupted(transaction: Any) -> None:
        attempts.append("once")
        if len(attempts) == 1:
            waiting.start()
            deadline = time.monotonic() + 60
            while not is_within(waiting, mapping._share.call.__code__):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            in_child(mapping.close)
        transaction.put(b"k", b"3")

    mapping._share.call(interrupted, write=True)
    waiting.join()
    assert dict(mapping) == {"k": b"3", "waiting": b"2"}


def is_within(thread: threading.Thread, code: CodeType) -> bool:
    """Return whether a thread is in a function, and in none that is called from there."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is code


def test_a_signal_handler_may_close_while_another_thread_waits_to_be_alone(mapping: LMDBMapping) -> None:
    """The other, which wants to let the map grow, steps back; and both are done."""
    mapping["k"] = b"1"
    guard = mapping._share.environment._guard
    grower = threading.Thread(target=mapping.__setitem__, args=("big", bytes(MIB)))
    attempts: list[str] = []

    def interrupted(transaction: Any) -> bytes:
        attempts.append("once")
        if len(attempts) == 1:
            grower.start()
            deadline = time.monotonic() + 60
            while guard.acquire(blocking=False):
                guard.release()
                assert time.monotonic() < deadline
            mapping.close()
        return bytes(transaction.get(b"k"))

    assert mapping._share.call(interrupted) == b"1"
    grower.join()
    assert mapping.size("big") == MIB


# -- closed -----------------------------------------------------------------------------------------------------------


def test_close_releases_every_descriptor(mapping: LMDBMapping) -> None:
    mapping["k"] = b"1"
    threads = [threading.Thread(target=mapping.__getitem__, args=("k",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mapping.close()
    assert descriptors(mapping) == 0
    assert mapping["k"] == b"1"
