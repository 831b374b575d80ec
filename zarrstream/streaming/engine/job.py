"""One run on its way, why a chunk of it has no result, and what tells runs to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from zarrstream.streaming.chunk import Index


class Overdue(Exception):  # noqa: N818  # a marker that never leaves the streams: ChunkTimeoutError is what users see
    """A request was cancelled because its chunk took too long."""


class NoWorkerError(Exception):
    """No thread can be had for a job; ``__cause__`` says why. It never leaves the streams."""

    def told(self) -> RuntimeError:
        """Return what is raised in its place, whatever the error policy says: no chunk is to blame."""
        error = RuntimeError(str(self.__cause__))
        error.__cause__ = self.__cause__
        return error


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

    Attributes
    ----------
    at_end : callable or None
        Called once when the last stage has ended, whatever came of it and whether or not anybody still waits.
    kept : list or None
        The results that the consumer took over when it gave the job up. Whoever has the job may go on writing into
        `results`, and nobody reads them any more.
    """

    __slots__ = (
        "_claim",
        "after",
        "at_end",
        "halt",
        "indices",
        "kept",
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
        self.at_end: Callable[[], None] | None = None
        self.kept: list[Any] | None = None
        self.after: list[Job | tuple[list[Index], Failure]] = []
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

    @property
    def taken(self) -> list[Any]:
        """The results for the consumer."""
        return self.results if self.kept is None else self.kept

    def fail(self, error: BaseException) -> None:
        """Make an error the result of every chunk, unless nobody waits for the job any more."""
        if not self.given_up:
            self.results[:] = [Failure(error)] * len(self.indices)
            self.halt.failed(self)

    @property
    def has_results(self) -> bool:
        """Whether every chunk has its result, so that no further stage has anything to do."""
        return len(self.results) == len(self.indices)

    def pause(self) -> None:
        """Stop the clock while the job waits for its next stage."""
        mark = self.mark
        if mark is not None:
            self.spent, self.mark = time.monotonic() - mark[2], None

    def ended(self) -> None:
        """Give back what the stages hold."""
        at_end, self.at_end = self.at_end, None
        if at_end is not None:
            at_end()

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
