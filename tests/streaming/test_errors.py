"""What a failing or hanging chunk does, by policy; and what the error says."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.streaming.spies import AsyncSpy, Spy, eventually, filled, stream_threads
from zarrstream import (
    ChunkReadError,
    ChunkTimeoutError,
    ChunkWriteError,
    Progress,
    stream_chunks,
    stream_slices,
    write_stream,
)

STORES = [Spy, AsyncSpy]
BAD = "c/1/2"
ONE = (slice(5, 10), slice(8, 12))  # the chunk of that key alone: no other one can be late, however busy the machine
PATIENT = 1.5  # seconds: far more than it takes to read a chunk that does not hang


class Clock:
    """The time, and what is said to have passed besides."""

    def __init__(self) -> None:
        self._passed = 0.0

    def monotonic(self) -> float:
        """Return the seconds since some moment."""
        return time.monotonic() + self._passed

    def pass_by(self, seconds: float) -> None:
        """Be later."""
        self._passed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which chunks are late."""
    made = Clock()
    for module in ("job", "window"):
        monkeypatch.setattr(f"zarrstream.streaming.engine.{module}.time", made)
    return made


def failing(store: type, operation: str, *bad: str, times: int = 1 << 30) -> Any:
    """A hook under which an operation on some keys fails, so many times."""
    left = [times]

    def fail(what: str, key: str) -> None:
        if what == operation and key in (bad or (BAD,)) and left[0]:
            left[0] -= 1
            raise OSError("the disk is on fire")

    async def afail(what: str, key: str) -> None:
        fail(what, key)

    return fail if store is Spy else afail


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("options", [{}, {"shards": (10, 4)}])
def test_raise_names_the_chunk(store: type, options: dict) -> None:
    """The error has index, key and cause; what lies before it in order was yielded, and nothing is read after it."""
    array, _ = filled(store(), **options)
    bad = BAD if not options else "c/0/2"
    array.store.hook = failing(store, "get", bad)
    got = []
    with pytest.raises(ChunkReadError, match="on fire") as caught:
        got.extend(chunk.index for chunk in stream_chunks(array))
    error = caught.value
    assert error.key == bad
    assert error.index == ((1, 2) if not options else (0, 2))
    assert isinstance(error.cause, OSError)
    everything = list(np.ndindex(4, 3)) if not options else [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert got == everything[: everything.index(error.index)] if not options else everything
    assert array.store.running == 0
    assert eventually(lambda: not stream_threads())  # nobody is there who could read on
    again = pickle.loads(pickle.dumps(error))
    assert (again.index, again.key, str(again)) == (error.index, error.key, str(error))


@pytest.mark.parametrize("store", STORES)
def test_damaged_bytes_are_an_error(store: type) -> None:
    """Bytes that do not decode are no data and no fill value."""
    array, _ = filled(store())
    raw = array.store._store_dict[BAD].to_bytes()
    for damaged in (raw[: len(raw) // 2], b"", raw[:4] + b"\0" * (len(raw) - 4)):
        array.store._store_dict[BAD] = type(array.store._store_dict[BAD]).from_bytes(damaged)
        with pytest.raises(ChunkReadError) as caught:
            list(stream_chunks(array))
        assert caught.value.index == (1, 2)


@pytest.mark.parametrize("store", STORES)
def test_skip_logs_counts_and_goes_on(store: type, caplog: pytest.LogCaptureFixture) -> None:
    """`"skip"` leaves the chunk out, says so in the log, and counts it."""
    array, _ = filled(store())
    array.store.hook = failing(store, "get")
    heard: list[Progress] = []
    with caplog.at_level(logging.WARNING, "zarrstream"):
        got = [chunk.index for chunk in stream_chunks(array, on_error="skip", progress=heard.append)]
    assert got == [index for index in np.ndindex(4, 3) if index != (1, 2)]
    assert "(1, 2)" in caplog.text
    assert (heard[-1].done, heard[-1].failed) == (11, 1)


@pytest.mark.parametrize("store", STORES)
def test_a_callable_decides(store: type) -> None:
    """It receives the error in the caller's thread; `"retry"` reads again, in place; else the chunk is skipped."""
    array, _ = filled(store())
    array.store.hook = failing(store, "get", BAD, "c/2/0", times=3)
    asked: list[Any] = []

    def decide(error: Exception) -> object:
        asked.append((error.index, threading.current_thread()))
        return "retry" if error.index == (1, 2) else None

    got = [chunk.index for chunk in stream_chunks(array, on_error=decide)]
    assert got == sorted(got)
    assert (1, 2) in got
    assert {thread for _, thread in asked} == {threading.current_thread()}


def test_a_callable_may_raise() -> None:
    """What it raises ends the stream."""
    array, _ = filled(Spy())
    array.store.hook = failing(Spy, "get")

    def refuse(error: Exception) -> None:
        raise ZeroDivisionError from error

    with pytest.raises(ZeroDivisionError):
        list(stream_chunks(array, on_error=refuse))
    assert eventually(lambda: not stream_threads())


def test_slices_skip_what_crosses_a_failed_chunk() -> None:
    """A slice with a hole is no slice: it is skipped, the others come."""
    array, values = filled(Spy())
    array.store.hook = failing(Spy, "get")
    slices = list(stream_slices(array, on_error="skip", thickness=2))
    assert [found.start for found in slices] == [0, 2, 10, 12, 14, 16, 18]
    assert all((found.data == values[found.region]).all() for found in slices)


@pytest.mark.parametrize("ordered", [True, False])
def test_timeout_names_the_chunk_and_the_thread(ordered: bool) -> None:
    """A synchronous call that hangs is given up at once: error with the chunk's name, thread abandoned and named."""
    array, _ = filled(Spy())
    release = threading.Event()
    array.store.hook = lambda _, key: release.wait(30) if key == BAD else None
    with pytest.raises(ChunkTimeoutError, match=r"zarrstream-\d+-\d+ is stuck") as caught:
        list(stream_chunks(array, region=ONE, timeout=0.05, ordered=ordered))
    assert not release.is_set()
    assert (caught.value.index, caught.value.key) == ((1, 2), BAD)
    release.set()
    assert eventually(lambda: not stream_threads())


def test_timeout_cancels_awaited_requests() -> None:
    """An awaited request that hangs is cancelled, and nothing runs on."""
    array, _ = filled(AsyncSpy())

    async def hang(_: str, key: str) -> None:
        if key == BAD:
            await asyncio.sleep(60)

    array.store.hook = hang
    with pytest.raises(ChunkTimeoutError, match="cancelled"):
        list(stream_chunks(array, region=ONE, timeout=0.05))
    assert array.store.cancelled == 1
    assert array.store.running == 0


@pytest.mark.parametrize("store", STORES)
def test_timeout_skipped_loses_one_chunk(store: type) -> None:
    """Under `"skip"` the other chunks of the run are read all the same, in order."""
    array, _ = filled(store(), shape=(64, 4), chunks=(1, 4))
    release = threading.Event()

    def hang(_: str, key: str) -> None:
        if key == "c/5/0":
            release.wait(30)

    async def ahang(_: str, key: str) -> None:
        if key == "c/5/0":
            await asyncio.sleep(60)

    array.store.hook = hang if store is Spy else ahang
    got = [chunk.index[0] for chunk in stream_chunks(array, timeout=PATIENT, on_error="skip", concurrency=2)]
    assert got == [row for row in range(64) if row != 5]
    release.set()
    assert eventually(lambda: not stream_threads())


@pytest.mark.slow
def test_timeout_is_for_a_chunk_not_for_its_run(clock: Clock) -> None:
    """Many quick chunks in one run, together slower than the timeout, are no time-out; nor is a slow consumer."""
    array, _ = filled(Spy(), shape=(128, 4), chunks=(1, 4))
    in_long_runs = {f"c/{row}/0" for row in range(63, 128)}
    array.store.hook = lambda _, key: time.sleep(1 / 30) if key in in_long_runs else None
    got = []
    for chunk in stream_chunks(array, timeout=1, concurrency=1):  # the longest run has 32 chunks
        if chunk.index[0] == 127:  # which came with its whole run: nothing is under way
            clock.pass_by(10)
        got.append(chunk)
    assert len(got) == 128


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("options", [{}, {"shards": (5, 8)}])
def test_nothing_is_written_after_the_error(store: type, options: dict) -> None:
    """When a write fails, its siblings stop: nothing is written once the caller has the error."""
    array, _ = filled(store(), shape=(200, 8), **options)
    items = [(chunk.region, -chunk.data) for chunk in stream_chunks(array)]
    array.store.hook = failing(store, "set", "c/3/0")
    with pytest.raises(ChunkWriteError, match="on fire") as caught:
        write_stream(array, items)
    assert caught.value.index[0] == 3
    assert array.store.running == 0
    assert eventually(lambda: not stream_threads())  # nobody is there who could write on


@pytest.mark.parametrize("store", STORES)
def test_writes_skip_and_retry(store: type) -> None:
    """`"skip"` counts and keeps the errors; a callable's `"retry"` writes again."""
    array, values = filled(store())
    array.store.hook = failing(store, "set")
    report = write_stream(array, [((slice(0, 20), slice(0, 12)), values + 1)], on_error="skip")
    assert (report.written, report.failed) == (11, 1)
    assert [error.index for error in report.errors] == [(1, 2)]
    assert report.last_index == (3, 2)
    array.store.hook = failing(store, "set", times=2)
    report = write_stream(array, [((slice(0, 20), slice(0, 12)), values + 2)], on_error=lambda _: "retry")
    assert (report.written, report.failed) == (12, 0)
    assert (array[...] == values + 2).all()


def test_a_late_write_is_unknown() -> None:
    """A write that hangs says that its state is unknown, and a later item for its chunk does not race it."""
    array, values = filled(Spy())
    release = threading.Event()
    array.store.hook = lambda what, key: release.wait(30) if (what, key) == ("set", BAD) else None
    items = [((1, 2), values[5:10, 8:12] + 1), ((0, 0), values[:5, :4] + 1), ((1, 2), values[5:10, 8:12] + 2)]
    report = write_stream(array, items, timeout=PATIENT, on_error="skip", concurrency=2)
    assert (report.written, report.failed) == (1, 2)
    assert isinstance(report.errors[0], ChunkTimeoutError)
    assert "unknown" in str(report.errors[0])
    assert "stuck" in str(report.errors[1])
    release.set()
    assert eventually(lambda: not stream_threads())


def test_a_late_awaited_write_is_cancelled(clock: Clock) -> None:
    """An awaited write that hangs is cancelled; one that waits for its turn is not late."""
    array, values = filled(AsyncSpy())

    async def hang(what: str, key: str) -> None:
        if (what, key) == ("set", BAD):
            await asyncio.sleep(60)
        if what == "set":
            clock.pass_by(PATIENT / 5)
            await asyncio.sleep(0)

    array.store.hook = hang
    start = clock.monotonic()
    report = write_stream(
        array, [((slice(0, 20), slice(0, 12)), values + 1)], timeout=PATIENT, on_error="skip", concurrency=1
    )
    assert (report.written, report.failed) == (11, 1)
    assert report.errors[0].index == (1, 2)
    assert array.store.cancelled == 1
    assert clock.monotonic() - start > 2 * PATIENT  # one at a time: most waited longer than the timeout


def test_errors_are_never_taken_for_absent() -> None:
    """No error of a store becomes a fill value: a store's own ConnectionError is an error of the chunk."""
    array, _ = filled(Spy())

    def lost(_: str, __: str) -> None:
        raise ConnectionResetError("the other side hung up")

    array.store.hook = lost
    with pytest.raises(ChunkReadError, match="hung up"):
        list(stream_chunks(array, include_missing=False))
