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
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeAlias

from zarrstream.streaming.engine.job import Job, NoWorkerError, Overdue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

_names = count()
#: Seconds without work after which a thread goes: an iterator that lies idle keeps none. (Where another thread takes a
#: job at the very moment that one's time is over, Python 3.11's queue lets it wait on: it goes with its stream then.)
LINGER = 0.2


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
        self._hired = count()
        self._serving = 0  # those that are not stuck
        self._awaited = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them but weakly
        self._quiet = threading.Event()
        self._quiet.set()
        self._name = f"zarrstream-{next(_names)}"

    @property
    def busy(self) -> bool:
        """Whether a thread or task is still there."""
        return not self._quiet.is_set() or any(thread.is_alive() for thread in list(self._threads))

    def start(self, job: Job) -> None:
        """Send a job through the stages."""
        if self._line.before is not None:
            self._spawn(self._line.before, job, self._to_threads)
        else:
            self._to_threads(job)

    def abandon(self, job: Job) -> None:
        """Give up on a job: cancel its request, or replace the thread that is stuck with it."""
        self.cancel((job,))
        if job.thread:
            with self._lock:
                self._serving -= 1
                if self._dismissed:
                    return
                self._limit += 1
                error = self._hire()
                stranded = self._stranded() if error is not None and not self._serving else []
            for waiting in stranded:
                self._refuse(waiting, error)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Cancel the requests of jobs; calls in threads go on."""
        for job in jobs:
            task = job.task
            if task is not None and not (loop := task.get_loop()).is_closed():
                loop.call_soon_threadsafe(task.cancel)

    def dismiss(self, jobs: Iterable[Job]) -> None:
        """Cancel the tasks of jobs and send the threads home once their calls return."""
        self.cancel(jobs)
        with self._lock:
            if not self._dismissed:
                self._dismissed = True
                for _ in self._threads:
                    self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait at most so long until all are gone."""
        deadline = time.monotonic() + seconds
        self._quiet.wait(seconds)
        for thread in list(self._threads):
            if thread.ident is None:  # it could not be started
                continue
            thread.join(max(0.0, deadline - time.monotonic()))

    def _to_threads(self, job: Job) -> None:
        # A job that is to stop needs no thread: at the end of the loop, or of the interpreter, none may be had.
        if self._line.work is None or job.has_results or job.halted:
            self._finish(job)
            return
        with self._lock:
            if self._dismissed:  # a request that came in while the stream was being closed
                job.ended()
                return
            error = self._hire() if len(self._threads) < self._limit else None
            if error is None or self._serving:  # fewer threads than wanted do the work as well
                self._queue.put(job)
                return
        self._refuse(job, error)

    def _hire(self) -> RuntimeError | None:
        """Start one more thread; return why there is none, as in a container that has used up its threads."""
        name = f"{self._name}-{next(self._hired)}"
        target = (self._context.copy().run, _serve, self._queue, self._line.work, self._leave, self._retire)
        thread = threading.Thread(target=target[0], args=target[1:], name=name, daemon=True)
        self._threads.append(thread)  # before it starts: an interrupt in between leaves none that nobody sends home
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.remove(thread)
            return error
        self._serving += 1
        return None

    def _retire(self) -> bool:
        """Let the calling thread go, which found no work; False where some has come since."""
        with self._lock:  # jobs are put under it, too: none is put for a thread that has gone
            if not self._queue.empty():
                return False
            self._threads.remove(threading.current_thread())
            self._serving -= 1
            return True

    def _stranded(self) -> list[Job]:
        """Take the jobs that no thread is left for."""
        jobs: list[Job] = []
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs
            if job is not None:
                jobs.append(job)

    def _refuse(self, job: Job, error: RuntimeError | None) -> None:
        refused = NoWorkerError()
        refused.__cause__ = error
        job.fail(refused)
        self._finish(job)

    def _leave(self, job: Job) -> None:
        if self._line.after is None or job.has_results or job.halted:
            self._finish(job)
            return
        job.thread = ""
        job.pause()
        try:
            self._spawn(self._line.after, job, self._finish)
        except RuntimeError as error:  # the loop has ended: the job's consumer is told, or has ended with it
            job.fail(error)
            self._finish(job)

    def _finish(self, job: Job) -> None:
        job.mark = None
        job.ended()
        if job.claim():
            self._inbox.put(job)

    def _spawn(self, stage: Stage, job: Job, then: Callable[[Job], None]) -> None:
        loop = self._line.loop
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop of this stream's store is closed: open the array again")
        with self._lock:
            self._awaited += 1
            self._quiet.clear()
        try:
            loop.call_soon_threadsafe(self._begin, stage, job, then, context=self._context.copy())
        except RuntimeError:
            self._ended()
            raise

    def _begin(self, stage: Stage, job: Job, then: Callable[[Job], None]) -> None:
        task = asyncio.get_running_loop().create_task(_attend(stage, job, self._timeout))
        job.task = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(done, job, then))

    def _end(self, task: asyncio.Task[None], job: Job, then: Callable[[Job], None]) -> None:
        job.task = None
        then(job)
        self._tasks.discard(task)
        self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._awaited -= 1
            if not self._awaited:
                self._quiet.set()


def _serve(
    queue: SimpleQueue[Job | None],
    work: Callable[[Job], None],
    leave: Callable[[Job], None],
    retire: Callable[[], bool],
) -> None:
    """What a worker thread does until it is sent home, has had no work for a while, or finds that it was given up."""
    name = threading.current_thread().name
    while True:
        try:
            job = queue.get(timeout=LINGER)
        except Empty:
            if retire():
                return
            continue
        if job is None:
            return
        job.thread = name
        try:
            if not job.halted:
                work(job)
        except BaseException as error:  # noqa: BLE001  # it goes to the consumer, whatever it is
            job.fail(error)
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
        job.fail(error)
        raise
    except BaseException as error:  # noqa: BLE001  # it goes to the consumer, whatever it is
        job.fail(Overdue() if limit.expired() else error)
    job.pause()
