"""The two faces of a stream: blocking in the caller's thread, or awaited on the caller's loop, by the same steps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import zarr

from zarrstream.streaming.arguments import of_another_loop
from zarrstream.streaming.codecs.array import zarr_loop
from zarrstream.streaming.engine.observer import UNWATCHED, Observer, observer_of
from zarrstream.streaming.engine.window import GIVE_WAY, WAIT, Inbox, LoopInbox, Window
from zarrstream.streaming.transport.listing import stored_objects

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from concurrent.futures import Future

    from zarrstream.streaming.layout.bitmap import Presence
    from zarrstream.streaming.reading.reader import ReadPlan


_FORKED = "this iterator began before a fork, and its threads stayed in the parent: begin anew"
_CANCELLED = (
    "this iterator ended when a call for its next item was cancelled, as asyncio.wait_for does: it is not at its end. "
    "Begin anew, and wait with asyncio.wait({task}, timeout=…), which cancels nothing"
)


class Pass(Protocol):
    """One pass over an array."""

    window: Window

    def steps(self, present: Presence | None) -> Generator[Any, None, None]:
        """Yield items, `WAIT` where only a finished job can take it on, and `GIVE_WAY` where others may have a turn."""


Begin: TypeAlias = Callable[[Observer, Inbox | LoopInbox, asyncio.AbstractEventLoop], Pass]


class Ending:
    """Ends a pass that runs in a thread, from within (a callback of it) or from another thread."""

    def __init__(self) -> None:
        self.asked = False
        self.inbox: Inbox | None = None

    def ask(self) -> None:
        """Have the pass end at its next step, and not wait for that."""
        self.asked = True
        if (inbox := self.inbox) is not None:
            inbox.wake()


def in_thread(plan: ReadPlan, begin: Begin, ending: Ending) -> Generator[Any, None, None]:
    """Run a pass, blocking the calling thread where it has to wait."""
    loop = zarr_loop()
    refuse_own_loop(loop)
    process = os.getpid()
    with observer_of(plan.codec, plan.kind) as observer:
        with observer.inside():
            present = None if plan.include_missing else run_on(loop, _listing(plan))
            ending.inbox = inbox = observer.inbox()
            work = begin(observer, inbox, loop)
        try:
            for item in work.steps(present):
                if ending.asked:
                    return
                if item is WAIT:
                    inbox.wait(work.window.patience())
                    continue
                if item is GIVE_WAY:
                    continue
                yield item
                if os.getpid() != process:
                    raise RuntimeError(_FORKED)
        finally:
            if os.getpid() == process:
                work.window.close()


class OnLoop:
    """Run a pass on the running event loop, awaiting where it has to wait.

    Parameters
    ----------
    plan : ReadPlan
        What to read.
    begin : callable
        Starts the pass.
    awaited : bool
        Whether requests run on this loop, where the array was opened; else on zarr's own.
    """

    def __init__(self, plan: ReadPlan, begin: Begin, *, awaited: bool) -> None:
        self._plan, self._begin, self._awaited = plan, begin, awaited
        self._process = os.getpid()
        self._observer = UNWATCHED
        self._work: Pass | None = None
        self._steps: Generator[Any, None, None] | None = None
        self._turn = asyncio.Lock()  # tasks that share the pass take its items in turn
        self._cancelled = False

    async def next(self) -> Any:
        """Return the next item.

        Raises
        ------
        StopAsyncIteration
            After the last.
        RuntimeError
            After a call of it was cancelled: the pass did not come to its end.
        """
        if os.getpid() != self._process:
            raise RuntimeError(_FORKED)
        async with self._turn:
            if self._cancelled:
                raise RuntimeError(_CANCELLED)
            try:
                if self._steps is None:
                    await self._start()
                while (item := next(self._steps or iter_nothing(), _END)) is WAIT or item is GIVE_WAY:
                    await (self._wait() if item is WAIT else asyncio.sleep(0))
            except BaseException as error:
                self._cancelled = isinstance(error, asyncio.CancelledError)
                await self.end(error)
                raise
            if item is _END:
                await self.end(None)
                raise StopAsyncIteration
            return item

    async def close(self) -> None:
        """End the pass; a second time does nothing."""
        await self.end(GeneratorExit())

    async def end(self, error: BaseException | None) -> None:
        """End the pass because of an error, or None where it has come to its end."""
        work, self._work = self._work, None
        observer, self._observer = self._observer, UNWATCHED
        self._steps = iter_nothing()
        if os.getpid() != self._process:
            return
        try:
            if work is not None:
                if isinstance(work.window.inbox, LoopInbox):
                    work.window.inbox.wake()  # a task that waits for an item finds that there are no more
                await work.window.aclose()
        finally:
            observer.end(error)

    def __del__(self) -> None:
        if self._work is not None and os.getpid() == self._process:
            self._work.window.stop()
            self._observer.end(GeneratorExit())

    async def _start(self) -> None:
        loop = asyncio.get_running_loop() if self._awaited else zarr_loop()
        self._observer = observer_of(self._plan.codec, self._plan.kind)
        with self._observer.inside():
            present = None if self._plan.include_missing else await await_on(loop, _listing(self._plan))
            if self._steps is not None:  # closed meanwhile by another task
                return
            self._work = self._begin(self._observer, self._observer.loop_inbox(), loop)
        self._steps = self._work.steps(present)

    async def _wait(self) -> None:
        work = self._work
        if work is not None and isinstance(work.window.inbox, LoopInbox):
            await work.window.inbox.wait(work.window.patience())


_END = object()


def iter_nothing() -> Generator[Any, None, None]:
    """Yield nothing: what is left of an ended pass."""
    yield from ()


def refuse_own_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse to block the loop that would have to answer.

    Raises
    ------
    RuntimeError
        If the caller runs on that loop.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return
    if running is loop:
        raise RuntimeError("a synchronous stream would block zarr's own event loop for ever: use zarrstream.aio there")


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on another thread's loop and wait for it; an interrupt cancels it."""
    future: Future[Any] | None = None
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
        return future.result()
    except RuntimeError as error:
        if hint := of_another_loop(error):
            raise RuntimeError(f"{error}{hint}") from error
        raise
    finally:
        if future is not None:
            future.cancel()  # does nothing to one that is done


def _listing(plan: ReadPlan) -> Coroutine[Any, Any, Presence | None]:
    return stored_objects(plan.codec, plan.limits.timeout, reading=True)


async def await_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop, which may be this one, and await it."""
    if asyncio.get_running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def lives_here(array: object) -> bool:
    """Whether an array's requests belong on the running loop: a `zarr.Array` is fetched on zarr's own."""
    return not isinstance(array, zarr.Array)
