"""Requests that hang, fail and come back late: each chunk is delivered once, with its values, or told once."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from tests.streaming.spies import AsyncSpy, Spy, eventually, stream_threads
from zarrstream import aio, stream_chunks, stream_slices, write_stream
from zarrstream.errors import ChunkReadError, ChunkTimeoutError
from zarrstream.streaming.engine.job import Halt, Job
from zarrstream.streaming.engine.window import Inbox
from zarrstream.streaming.engine.workers import Crew, Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream import WriteReport
    from zarrstream.errors import ChunkError

SHAPE, CHUNKS = (8, 32), (1, 4)
VALUES = np.arange(1, 257, dtype="i4").reshape(SHAPE)


class Stalling(Spy):
    """A synchronous store: the calls for some keys hang until they are let go, and then fail."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hanging: set[str] = set()
        self.failing: set[str] = set()
        self.let_go = threading.Event()
        self.hook = self.stall

    def stall(self, operation: str, key: str) -> None:
        if operation != "get":
            return
        with self.lock:
            hangs, fails = key in self.hanging, key in self.failing
            self.hanging.discard(key)
            self.failing.discard(key)
        if hangs:
            self.let_go.wait(60)
        if hangs or fails:
            raise ConnectionResetError("at last")


class AwaitedStalling(AsyncSpy):
    """The same, awaited: what hangs is cancelled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hanging: set[str] = set()
        self.failing: set[str] = set()
        self.let_go = threading.Event()
        self.hook = self.stall

    async def stall(self, operation: str, key: str) -> None:
        if operation != "get":
            return
        hangs, fails = key in self.hanging, key in self.failing
        self.hanging.discard(key)
        self.failing.discard(key)
        if hangs:
            await asyncio.sleep(60)
        if fails:
            raise ConnectionResetError("at last")


@pytest.fixture(params=[Stalling, AwaitedStalling])
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.let_go.set()  # the threads that were given up end


def array_in(store: Any, *, sharded: bool) -> zarr.Array:
    """Write the values."""
    array = zarr.create_array(
        store, shape=SHAPE, chunks=CHUNKS, shards=(8, 8) if sharded else None, dtype="i4", fill_value=-1
    )
    array[...] = VALUES
    if hasattr(store, "calls"):
        store.calls.clear()
    return array


async def items(face: str, kind: str, array: zarr.Array, **options: Any) -> list[Any]:
    """Read all chunks or slices through one of the faces."""
    if face == "aio":
        stream: Any = (aio.stream_chunks if kind == "chunks" else aio.stream_slices)(array, **options)
        return [item async for item in stream]
    return list((stream_chunks if kind == "chunks" else stream_slices)(array, **options))


async def written(face: str, array: zarr.Array, source: Any, **options: Any) -> WriteReport:
    """Write without a time-out through one of the faces."""
    if face == "aio":
        return await aio.write_stream(array, source, timeout=None, **options)
    return write_stream(array, source, timeout=None, **options)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("policy", ["retry", "skip", "raise"])
@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
@pytest.mark.parametrize("kind", ["chunks", "slices"])
@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_each_chunk_is_delivered_or_told_once(
    store: Any, face: str, kind: str, sharded: bool, policy: str, seed: int
) -> None:
    """Whichever requests hang or fail: no chunk comes twice, and no slice holds what nobody wrote."""
    array = array_in(store, sharded=sharded)
    keys = sorted(key for key in store._store_dict if key.startswith("c/"))
    random_ = random.Random(seed)  # noqa: S311  # it chooses what a test breaks
    chosen = random_.sample(keys, min(len(keys), 5))
    store.hanging, store.failing = set(chosen[:3]), set(chosen[3:])
    told: list[ChunkError] = []

    def decide(error: ChunkError) -> str:
        told.append(error)
        return policy

    options = {"timeout": 0.05, "concurrency": random_.choice([1, 2, 4]), "ordered": random_.random() < 0.5}
    if policy == "raise":
        with pytest.raises((ChunkReadError, ChunkTimeoutError)):
            await items(face, kind, array, **options)
        got = []
    else:
        got = await items(face, kind, array, on_error=decide, **options)
    for item in got:
        assert np.array_equal(item.data, VALUES[item.region])
    if policy == "retry":
        assert sum(item.data.size for item in got) == VALUES.size
    elif policy == "skip" and kind == "chunks":
        delivered = Counter(item.index for item in got) + Counter(error.index for error in told)
        assert delivered == Counter(np.ndindex(8, 8))
    store.let_go.set()
    assert await asyncio.to_thread(eventually, lambda: not stream_threads() and not store.running)
    assert {type(error) for error in told} <= {ChunkReadError, ChunkTimeoutError}


def test_a_job_that_was_given_up_is_nobody_s() -> None:
    """Whoever has it may go on: neither what the consumer took over nor the other jobs hear of it."""
    halt = Halt("stop all")
    job = Job(0, [(0,), (1,)], 8, halt, None)
    job.results.append("the first")
    assert job.claim()
    job.kept = list(job.results)
    job.fail(ConnectionResetError("at last"))
    job.results.append("the second")
    assert job.taken == ["the first"]
    assert job.halted
    assert halt.limit == float("inf")
    assert not job.claim()


def test_a_loop_that_ends_first_is_no_error_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose next stage has no loop any more ends as failed, and nothing is printed."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    loop, entered, gate = asyncio.new_event_loop(), threading.Event(), threading.Event()

    def work(_: Job) -> None:
        entered.set()
        gate.wait(10)

    async def after(*_: Any) -> None:
        raise AssertionError("there is no loop for it")

    inbox = Inbox()
    crew = Crew(Line(work=work, after=after, loop=loop), inbox, 1, None)
    job = Job(0, [(0,)], 8, Halt("go on"), None)
    crew.start(job)
    entered.wait(10)
    loop.close()
    gate.set()
    inbox.wait(10)
    assert inbox.take() is job
    assert "loop" in str(job.results[0].error)
    crew.dismiss(())
    crew.join(10)
    assert raised == []


class Down(Spy):
    """A store that is down for so many requests of one key."""

    left = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hook = self.fail

    def fail(self, operation: str, key: str) -> None:
        if operation == "get" and key == "c/0/1" and self.left:
            self.left -= 1
            raise ConnectionError("down")


@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_a_retry_is_made_as_often_as_it_is_asked_for(face: str) -> None:
    """A store that is down for a thousand requests is asked a thousand and one times."""
    array = array_in(Down(), sharded=False)
    array.store.left = 1000
    got = await items(face, "chunks", array, on_error=lambda _: "retry")
    assert len(got) == 64
    assert array.store.seen("get")["c/0/1"] == 1001


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
def test_one_request_that_fails_for_a_shard_is_one_question(kind: Any) -> None:
    """A retry reads all that the request was for with one more, and asks the policy once."""
    array = array_in(kind(), sharded=True)
    failing = ["c/0/1"]

    def fail(operation: str, key: str) -> None:
        if operation == "get" and key in failing:
            failing.remove(key)
            raise ConnectionError("one hiccup")

    async def awaited(operation: str, key: str) -> None:
        fail(operation, key)

    array.store.hook = fail if kind is Spy else awaited
    asked: list[ChunkError] = []
    got = list(stream_chunks(array, on_error=lambda error: (asked.append(error), "retry")[1]))
    assert sorted(chunk.index for chunk in got) == list(np.ndindex(8, 8))
    assert len(asked) == 1
    assert array.store.seen("get")["c/0/1"] == 2


@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_an_error_does_not_wait_for_requests_that_hang(face: str) -> None:
    """Awaited siblings are cancelled, without a time-out as well."""
    array = array_in(AsyncSpy(), sharded=False)
    hang = asyncio.Event()

    async def hook(operation: str, key: str) -> None:
        if key == "c/0/0":
            raise OSError("bad disk")
        if operation == "get":
            await hang.wait()

    array.store.hook = hook
    with pytest.raises(ChunkReadError, match="bad disk"):
        await items(face, "chunks", array, timeout=None)
    assert array.store.running == 0


@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_an_error_of_a_write_does_not_wait_for_requests_that_hang(face: str) -> None:
    """The same for what is written."""
    array = zarr.create_array(AsyncSpy(), shape=(40,), chunks=(2,), dtype="i4")
    hang = asyncio.Event()

    async def hook(operation: str, key: str) -> None:
        if key == "c/0":
            raise OSError("bad disk")
        if operation == "set":
            await hang.wait()

    array.store.hook = hook
    source = [((at,), np.ones(2, "i4")) for at in range(10)]  # fewer than the requests that may be under way
    with pytest.raises(OSError, match="bad disk"):
        await written(face, array, source)
    assert array.store.running == 0


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("what", ["read", "write"])
@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_no_thread_to_be_had_is_an_error(
    kind: Any, what: str, face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container that has used up its threads the stream says so, whatever the error policy."""
    array = array_in(kind(), sharded=False)
    start = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name.startswith("zarrstream"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    read = items(face, "chunks", array, on_error="skip", timeout=None)
    write = written(face, array, [((0, 0), np.zeros((1, 4), "i4"))], on_error="skip")
    wanted, other = (read, write) if what == "read" else (write, read)
    other.close()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await wanted


def test_fewer_threads_than_wanted_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is enough."""
    array = array_in(Spy(), sharded=False)
    start, started = threading.Thread.start, []

    def one(thread: threading.Thread) -> None:
        if thread.name.startswith("zarrstream"):
            if started:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", one)
    assert len(list(stream_chunks(array, concurrency=4))) == 64
    assert not stream_threads()


@pytest.mark.parametrize("seconds", [float("inf"), 1e12, np.float32(5), np.int64(5), 5])
@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_a_timeout_is_any_number(face: str, seconds: Any) -> None:
    """Infinity is no limit, and numpy's numbers are numbers."""
    array = array_in(MemoryStore(), sharded=False)
    assert len(await items(face, "chunks", array, timeout=seconds)) == 64


@pytest.mark.parametrize(
    ("timeout", "error"), [("5", TypeError), (float("nan"), ValueError), (0, ValueError), (True, TypeError)]
)
def test_a_timeout_that_is_none_is_refused_at_once(timeout: Any, error: Any) -> None:
    """Before anything is read."""
    with pytest.raises(error, match="timeout must be"):
        stream_chunks(array_in(MemoryStore(), sharded=False), timeout=timeout)
