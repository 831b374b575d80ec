"""The window of a watched stream, and what goes in and out: jobs, items of a source, what a policy decides."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from zarrstream import telemetry
from zarrstream.errors import ChunkTimeoutError
from zarrstream.streaming.engine.window import Inbox, LoopInbox, Window
from zarrstream.streaming.engine.workers import Line
from zarrstream.streaming.sightings import current_job
from zarrstream.streaming.writing.frontier import Frontier

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream.errors import ChunkError
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.engine.job import Halt, Job
    from zarrstream.streaming.engine.workers import Stage
    from zarrstream.streaming.sight import StreamSight
    from zarrstream.streaming.writing.frontier import Item


class WatchedPolicy:
    """What decides about a chunk that failed, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    policy : callable
        What decides.
    """

    def __init__(self, observer: StreamSight, policy: Callable[[ChunkError], object]) -> None:
        self._observer, self._policy = observer, policy

    def __call__(self, error: ChunkError) -> object:
        """Decide."""
        answer = self._policy(error)
        stuck = self._observer.direction == "write" and isinstance(error, ChunkTimeoutError)
        if answer == "retry" and not stuck:
            self._observer.retried(error)
        else:
            self._observer.gave_up(error)
        return answer


class WatchedFrontier(Frontier):
    """What follows the items of a source, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    """

    def __init__(self, observer: StreamSight) -> None:
        super().__init__()
        self._observer = observer

    def add(self, item: Item) -> None:
        """Follow an item that was just pulled."""
        super().add(item)
        self._observer.followed(item.waiting)

    def settle(self, items: tuple[Item, ...]) -> None:
        """One chunk of each of these is settled."""
        super().settle(items)
        self._observer.followed(-len(items))


class _Arrivals:
    """Says which jobs have ended, to whoever they go.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    """

    def __init__(self, observer: StreamSight) -> None:
        super().__init__()
        self._observer = observer

    def put(self, job: Job) -> None:
        """Hand over a finished job."""
        self._observer.ended(job)
        super().put(job)  # type: ignore[misc]  # of the inbox that it is mixed into


class WatchedInbox(_Arrivals, Inbox):
    """Where finished jobs arrive for a consumer in a thread, watched."""

    def wait(self, seconds: float | None) -> None:
        """Block until a job arrives or so many seconds are over."""
        since = perf_counter_ns()
        super().wait(seconds)
        self._observer.waited("caller", since)


class WatchedLoopInbox(_Arrivals, LoopInbox):
    """Where finished jobs arrive for a consumer on an event loop, watched."""

    async def wait(self, seconds: float | None) -> None:
        """Wait until a job arrives or so many seconds are over."""
        since = perf_counter_ns()
        await super().wait(seconds)
        self._observer.waited("caller", since)


class WatchedWindow(Window):
    """Jobs under way, watched.

    Parameters
    ----------
    observer : StreamSight
        Whom to tell.
    line, inbox, halt, **limits
        As `Window` has them.
    """

    def __init__(self, observer: StreamSight, line: Line, inbox: Inbox | LoopInbox, halt: Halt, **limits: Any) -> None:
        super().__init__(_watched_line(observer, line), inbox, halt, **limits)
        self._observer = observer

    def submit(self, indices: list[Index], nbytes: int, load: Any, *, number: int | None = None) -> Job:
        """Start a job."""
        self._observer.submitted(len(indices), nbytes)
        return super().submit(indices, nbytes, load, number=number)

    def release(self, job: Job) -> None:
        """Give a consumed job's room back."""
        if job in self._held:
            self._observer.released(len(job.indices), job.nbytes)
        super().release(job)

    def overdue(self) -> list[tuple[Job, int, int]]:
        """Give up the jobs with a chunk that takes too long."""
        late = super().overdue()
        for job, first, last in late:
            self._observer.ended(job, (first, last))
        return late


def _watched_line(observer: StreamSight, line: Line) -> Line:
    """Have each stage know its job, and each chunk of an array that zarr reads as a whole its span."""
    return Line(
        work=line.work and _watched_work(observer, line.work),
        before=line.before and _watched_stage(observer, line.before),
        after=line.after and _watched_stage(observer, line.after),
        loop=line.loop,
    )


def _watched_work(observer: StreamSight, work: Callable[[Job], None]) -> Callable[[Job], None]:
    def watched(job: Job) -> None:
        current_job.set(observer.job_of(job))
        work(job)

    return watched


def _watched_stage(observer: StreamSight, stage: Stage) -> Stage:
    async def watched(job: Job, began: Callable[[], None]) -> None:
        about = observer.job_of(job)
        current_job.set(about)
        with ExitStack() as surroundings:

            def leaves() -> None:
                began()
                about.begin()
                if observer.codec.opaque and len(about.chunks) == 1:
                    surroundings.enter_context(telemetry.under(observer.open_span(about.chunks[0])))

            await stage(job, leaves)

    return watched
