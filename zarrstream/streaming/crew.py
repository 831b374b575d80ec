"""Who does the work: threads that take jobs from a queue, and tasks on an event loop.

They know neither the window nor the consumer, so that a forgotten stream can be collected. Threads are daemons: one
that is stuck in a store's call cannot keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from zarrstream.streaming.chunk import Index

_names = count()


class Overdue(Exception):  # noqa: N818  # a marker that never leaves the streams: ChunkTimeoutError is what users see
    """A request was cancelled because its chunk took too long."""


@dataclass
class Failure:
    """Why one chunk of a job has no result."""

    error: BaseException


class Halt:
    """Tells jobs under way to stop at the next chunk: those numbered above ``limit``.

    Parameters
    ----------
    on_failure : {"go on", "stop behind", "stop all"}
        What a failed chunk does to the jobs under way: nothing, end those behind it, or end them all.
    """

    def __init__(self, on_failure: Literal["go on", "stop behind", "stop all"]) -> None:
        self.limit: float = float("inf")
        self._on_failure = on_failure

    @property
    def fails_fast(self) -> bool:
        """Whether one failure ends more than its own chunk."""
        return self._on_failure != "go on"

    def after(self, number: float) -> None:
        """Stop every job above a number; below any number, all."""
        self.limit = min(self.limit, number)

    def failed(self, job: Job) -> None:
        """Take note of a job with a failed chunk."""
        if self.fails_fast:
            self.after(job.number if self._on_failure == "stop behind" else -1)


class Job:
    """One run on its way.

    Parameters
    ----------
    number : int
        Its place in order.
    indices : list of tuple of int
        Its chunks.
    nbytes : int
        Decoded bytes.
    halt : Halt
        Whom it asks, chunk by chunk, whether to go on.
    load : object
        What the stages hand on.
    """

    __slots__ = (
        "_claim",
        "after",
        "halt",
        "indices",
        "load",
        "mark",
        "nbytes",
        "number",
        "results",
        "spent",
        "task",
        "thread",
    )

    def __init__(self, number: int, indices: list[Index], nbytes: int, halt: Halt, load: Any) -> None:
        self.number = number
        self.indices = indices
        self.nbytes = nbytes
        self.halt = halt
        self.load = load
        self.results: list[Any] = []
        self.after: list[Job | tuple[Index, Any]] = []
        self.mark: tuple[int, int, float] | None = None
        self.spent: float = 0.0
        self.task: asyncio.Task[None] | None = None
        self.thread: str = ""
        self._claim = [self]

    @property
    def halted(self) -> bool:
        """Whether to stop before the next chunk: the stream is closing, failed, or gave this job up."""
        return self.number > self.halt.limit or not self._claim

    @property
    def given_up(self) -> bool:
        """Whether the consumer no longer waits for it."""
        return not self._claim

    def timing(self, first: int, last: int, spent: float = 0.0) -> None:
        """Start the clock of the chunks at half-open positions ``first`` to ``last``, ``spent`` seconds ago."""
        self.mark = (first, last, time.monotonic() - spent)

    def claim(self) -> bool:
        """Take the job's end: the worker that finishes it and the consumer that gives it up both try, one gets it."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True


Stage: TypeAlias = "Callable[[Job, Callable[[], None]], Awaitable[None]]"


@dataclass(frozen=True)
class Line:
    """The stages of a job: awaited, in a thread, awaited; any may be missing.

    Parameters
    ----------
    work : callable, optional
        Runs in a worker thread; it fills ``job.results`` and does not raise.
    before, after : callable, optional
        Coroutine functions of a job and of what to call when the first request leaves.
    loop : asyncio.AbstractEventLoop, optional
        Where they run.
    """

    work: Callable[[Job], None] | None = None
    before: Stage | None = None
    after: Stage | None = None
    loop: asyncio.AbstractEventLoop | None = None


class Sink(Protocol):
    """Where finished jobs go."""

    def put(self, job: Job) -> None:
        """Hand over a finished job, from any thread."""


class Crew:
    """The threads and tasks of one stream.

    Parameters
    ----------
    line : Line
        What is done to a job.
    inbox : Sink
        Where it ends.
    threads : int
        The most worker threads; they are started when there is work.
    timeout : float or None
        Seconds that awaited requests of a job may take.
    """

    def __init__(self, line: Line, inbox: Sink, threads: int, timeout: float | None) -> None:
        self._line, self._inbox, self._limit, self._timeout = line, inbox, threads, timeout
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._context = contextvars.copy_context()  # a span that is current in the caller is the parent in here, too
        self._lock = threading.Lock()
        self._dismissed = False
        self._threads: list[threading.Thread] = []
        self._awaited = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them but weakly
        self._quiet = threading.Event()
        self._quiet.set()
        self._name = f"zarrstream-{next(_names)}"

    @property
    def busy(self) -> bool:
        """Whether a thread or task is still there."""
        return not self._quiet.is_set() or any(thread.is_alive() for thread in self._threads)

    def start(self, job: Job) -> None:
        """Send a job through the stages."""
        if self._line.before is not None:
            self._spawn(self._line.before, job, self._to_threads)
        else:
            self._to_threads(job)

    def abandon(self, job: Job) -> None:
        """Give up on a job: cancel its request, or replace the thread that is stuck with it."""
        if job.task is not None:
            self._cancel(job.task)
        if job.thread:
            with self._lock:
                if not self._dismissed:
                    self._limit += 1
                    self._hire()

    def dismiss(self, jobs: Iterable[Job]) -> None:
        """Cancel the tasks of jobs and send the threads home once their calls return."""
        for job in jobs:
            if job.task is not None:
                self._cancel(job.task)
        with self._lock:
            if not self._dismissed:
                self._dismissed = True
                for _ in self._threads:
                    self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait at most so long until all are gone."""
        deadline = time.monotonic() + seconds
        self._quiet.wait(seconds)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _cancel(self, task: asyncio.Task[None]) -> None:
        loop = task.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _to_threads(self, job: Job) -> None:
        if self._line.work is None or _failed(job):
            self._finish(job)
            return
        with self._lock:
            if self._dismissed:  # a request that came in while the stream was being closed
                return
            self._queue.put(job)
            if len(self._threads) < self._limit:
                self._hire()

    def _hire(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        target = (self._context.copy().run, _serve, self._queue, self._line.work, self._leave)
        thread = threading.Thread(target=target[0], args=target[1:], name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _leave(self, job: Job) -> None:
        if self._line.after is not None and not _failed(job):
            job.thread = ""
            _pause(job)
            self._spawn(self._line.after, job, self._finish)
        else:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        job.mark = None
        if job.claim():
            self._inbox.put(job)

    def _spawn(self, stage: Stage, job: Job, then: Callable[[Job], None]) -> None:
        loop = self._line.loop
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop of this stream's store is closed: open the array again")
        with self._lock:
            self._awaited += 1
            self._quiet.clear()
        loop.call_soon_threadsafe(self._begin, stage, job, then, context=self._context.copy())

    def _begin(self, stage: Stage, job: Job, then: Callable[[Job], None]) -> None:
        task = asyncio.get_running_loop().create_task(_attend(stage, job, self._timeout))
        job.task = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(done, job, then))

    def _end(self, task: asyncio.Task[None], job: Job, then: Callable[[Job], None]) -> None:
        job.task = None
        then(job)
        self._tasks.discard(task)
        with self._lock:
            self._awaited -= 1
            if not self._awaited:
                self._quiet.set()


def _failed(job: Job) -> bool:
    return len(job.results) == len(job.indices) and isinstance(job.results[0], Failure)


def _serve(queue: SimpleQueue[Job | None], work: Callable[[Job], None], leave: Callable[[Job], None]) -> None:
    """What a worker thread does until it is sent home, or until it finds that it had been given up."""
    name = threading.current_thread().name
    while (job := queue.get()) is not None:
        job.thread = name
        try:
            if not job.halted:
                work(job)
        except BaseException as error:  # noqa: BLE001  # it goes to the consumer, whatever it is
            _fail(job, error)
        given_up = job.given_up
        leave(job)
        if given_up:
            return
        del job  # an idle thread keeps no chunk alive


async def _attend(stage: Stage, job: Job, seconds: float | None) -> None:
    """Await one stage of a job; its time starts when its first request leaves."""
    limit = asyncio.timeout(None)

    def began() -> None:
        if job.mark is None:
            job.timing(0, len(job.indices), job.spent)
            if seconds is not None:
                limit.reschedule(asyncio.get_running_loop().time() + seconds - job.spent)

    if job.halted:
        return
    try:
        async with limit:
            await stage(job, began)
    except asyncio.CancelledError as error:
        _fail(job, error)
        raise
    except BaseException as error:  # noqa: BLE001  # it goes to the consumer, whatever it is
        _fail(job, Overdue() if limit.expired() else error)
    _pause(job)


def _pause(job: Job) -> None:
    """Stop a job's clock while it waits for its next stage."""
    if job.mark is not None:
        job.spent, job.mark = time.monotonic() - job.mark[2], None


def _fail(job: Job, error: BaseException) -> None:
    job.results[:] = [Failure(error)] * len(job.indices)
    job.halt.failed(job)
