"""At most so many runs and bytes ahead: the one core of both faces, of reading and of writing.

A `Window` hands jobs to its crew and gives them back when they are done. It never blocks by itself: the synchronous
face waits in `Inbox.wait`, the asynchronous one in `LoopInbox.wait`, and everything else is shared.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from zarrstream.streaming.engine import memory
from zarrstream.streaming.engine.job import Halt, Job
from zarrstream.streaming.engine.workers import Crew, Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream.streaming.chunk import Index

WAIT: Final = object()  # what the shared steps yield when only a finished job can take them on
GIVE_WAY: Final = object()  # what they yield when they have looked for work for long, and will go on with it
GRACE = 0.1  # seconds that closing waits for calls already in a thread
_TICK = 0.002  # seconds between looks, where an event loop must not be blocked


class Inbox:
    """Where finished jobs arrive for a consumer in a thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._arrived: deque[Job | None] = deque()

    def put(self, job: Job) -> None:
        """Hand over a finished job, from any thread."""
        self._queue.put(job)

    def wake(self) -> None:
        """Have whoever waits look up, from any thread."""
        self._queue.put(None)

    def take(self) -> Job | None:
        """Return a finished job, or None at once."""
        if self._arrived:
            return self._arrived.popleft()
        # Only this thread takes: what is there stays there. An exception for each look would cost more than the look.
        return None if self._queue.empty() else self._queue.get_nowait()

    def wait(self, seconds: float | None) -> None:
        """Block until a job arrives or so many seconds are over."""
        try:
            self._arrived.append(self._queue.get(timeout=seconds))
        except Empty:
            return


class LoopInbox:
    """Where finished jobs arrive for a consumer on an event loop."""

    def __init__(self) -> None:
        self._arrived: deque[Job] = deque()
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.listener: Callable[[], None] | None = None  # called on the loop when a job has arrived

    def put(self, job: Job) -> None:
        """Hand over a finished job, from any thread."""
        self._arrived.append(job)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._event.set()
        if self.listener is not None:
            self.listener()

    def wake(self) -> None:
        """Have whoever waits look up; on the loop."""
        self._event.set()

    def take(self) -> Job | None:
        """Return a finished job, or None at once."""
        return self._arrived.popleft() if self._arrived else None

    async def wait(self, seconds: float | None) -> None:
        """Wait until a job arrives or so many seconds are over."""
        if self._arrived:
            return
        self._event.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return


class Window:
    """Jobs under way, bounded in number and in decoded bytes.

    Parameters
    ----------
    line : Line
        What is done to a job.
    inbox : Inbox or LoopInbox
        Where it ends.
    halt : Halt
        What stops the jobs.
    threads : int
        Worker threads, started when they are first needed.
    slots : int
        Jobs that may be unfinished.
    ahead : int
        Jobs that may be unfinished or unconsumed.
    max_bytes : int
        Decoded bytes of those; one job may always be under way.
    timeout : float or None
        Seconds that a chunk may take.
    """

    def __init__(
        self,
        line: Line,
        inbox: Inbox | LoopInbox,
        halt: Halt,
        *,
        threads: int,
        slots: int,
        ahead: int,
        max_bytes: int,
        timeout: float | None,
    ) -> None:
        memory.keep(max_bytes)
        self.inbox = inbox
        self.halt = halt
        self._crew = Crew(line, inbox, threads, timeout)
        self._slots, self._ahead, self._max_bytes, self._timeout = slots, ahead, max_bytes, timeout
        self._numbers = count()
        self._held: set[Job] = set()
        self._unfinished: set[Job] = set()
        self._nbytes = 0
        self._look_at = 0.0  # when the next chunk can be overdue
        self._over_at = float("inf")  # when, after an error, nobody waits any longer

    def has_room(self, nbytes: int) -> bool:
        """Whether a job of so many decoded bytes may start."""
        if not self._held:
            return True
        return (
            len(self._unfinished) < self._slots
            and len(self._held) < self._ahead
            and self._nbytes + nbytes <= self._max_bytes
        )

    @property
    def nbytes(self) -> int:
        """Decoded bytes of the jobs that are not released."""
        return self._nbytes

    @property
    def unfinished(self) -> int:
        """Jobs that have not ended."""
        return len(self._unfinished)

    @property
    def idle(self) -> bool:
        """Whether nothing is unfinished."""
        return not self._unfinished

    def submit(self, indices: list[Index], nbytes: int, load: Any, *, number: int | None = None) -> Job:
        """Start a job; ``number`` puts it in an earlier one's place."""
        job = Job(next(self._numbers) if number is None else number, indices, nbytes, self.halt, load)
        self._held.add(job)
        self._unfinished.add(job)
        self._nbytes += nbytes
        self._crew.start(job)
        return job

    def release(self, job: Job) -> None:
        """Give a consumed job's room back."""
        if job in self._held:
            self._held.remove(job)
            self._nbytes -= job.nbytes

    def is_done(self, job: Job) -> bool:
        """Whether a job has ended."""
        return job not in self._unfinished

    def settle(self) -> list[Job]:
        """Take in what has arrived."""
        done = []
        while (job := self.inbox.take()) is not None:
            if job in self._unfinished:
                self._unfinished.remove(job)
                done.append(job)
        return done

    def overdue(self) -> list[tuple[Job, int, int]]:
        """Give up the jobs with a chunk that takes too long; each with the positions in question."""
        if self._timeout is None:
            return []
        now = time.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + (self.patience() or 0.0)
        limit = now - self._timeout
        late = []
        for job in list(self._unfinished):
            mark = job.mark
            if mark is not None and mark[2] <= limit and job.claim():
                self._unfinished.remove(job)
                self._crew.abandon(job)
                late.append((job, mark[0], mark[1]))
        return late

    def patience(self) -> float | None:
        """Seconds until a chunk may be overdue, or winding down is over; None for no limit."""
        if self._over_at != float("inf"):
            return max(0.0, self._over_at - time.monotonic())
        if self._timeout is None:
            return None
        marks = [mark[2] for job in self._unfinished if (mark := job.mark) is not None]
        # A job without a mark has not begun; it cannot be late before a whole timeout from now.
        return max(0.0, min(marks) + self._timeout - time.monotonic()) if marks else self._timeout

    def cancel_requests(self) -> None:
        """Cancel the requests that are under way; calls in threads go on."""
        self._crew.cancel(self._unfinished)

    def wind_down(self) -> None:
        """Start nothing more after an error, and give what is under way a moment to end; `is_over` says when it is."""
        self.halt.after(-1)
        self._over_at = time.monotonic() + GRACE

    def wait_for_all(self) -> None:
        """Have patience again until the next chunk may be overdue."""
        self._over_at = float("inf")

    @property
    def is_over(self) -> bool:
        """Whether nothing is unfinished, or the moment for it has passed."""
        return not self._unfinished or time.monotonic() >= self._over_at

    def stop(self) -> None:
        """Start nothing more, cancel what can be cancelled; never blocks."""
        self.halt.after(-1)
        self._crew.dismiss(self._unfinished)

    def close(self) -> None:
        """Stop, and wait a moment for calls that are in a thread already."""
        self.stop()
        self._crew.join(GRACE)

    async def aclose(self) -> None:
        """Stop, and wait a moment without blocking the loop."""
        self.stop()
        deadline = time.monotonic() + GRACE
        while self._crew.busy and time.monotonic() < deadline:  # noqa: ASYNC110  # threads end, and set no event
            await asyncio.sleep(_TICK)
