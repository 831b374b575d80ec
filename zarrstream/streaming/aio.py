"""The streams under the same names, awaited: ``async for`` over chunks and slices, ``await write_stream``.

A `zarr.Array` is fetched on zarr's own loop, wherever it is streamed; a `zarr.AsyncArray` on the running loop, where
it was opened. Decoding and encoding run in worker threads. Callables and sources run on the caller's loop, one at a
time.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from inspect import isasyncgen
from typing import TYPE_CHECKING, Any, Generic, Never, Self, TypeVar, cast

from zarrstream.streaming import read, slices
from zarrstream.streaming.codecs.array import AnyArray, zarr_loop
from zarrstream.streaming.engine.faces import OnLoop, await_on, lives_here
from zarrstream.streaming.engine.job import Failure
from zarrstream.streaming.engine.observer import observer_of
from zarrstream.streaming.engine.window import GIVE_WAY, WAIT
from zarrstream.streaming.options import MAX_BYTES, TIMEOUT, Filter, Limits, OnError, OnProgress, Partial
from zarrstream.streaming.reading.reader import Skipped
from zarrstream.streaming.transport.listing import stored_objects
from zarrstream.streaming.write import ended, plan_of
from zarrstream.streaming.writing.pull import Pull
from zarrstream.streaming.writing.writer import PUBLISH, Writing

if TYPE_CHECKING:
    from types import TracebackType

    from zarrstream.streaming.chunk import Chunk, Slice, WriteReport
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.engine.window import LoopInbox
    from zarrstream.streaming.writing.checkpoint import Checkpoint
    from zarrstream.streaming.writing.plan import WritePlan

__all__ = ["AsyncStream", "stream_chunks", "stream_slices", "write_stream"]

Item = TypeVar("Item")


class AsyncStream(Generic[Item]):
    """A lazy, repeatable pass over an array, awaited: each ``async for`` starts anew.

    Parameters
    ----------
    stream : ChunkStream or SliceStream
        The same stream's blocking face.
    awaited : bool
        Whether requests run on the running loop, or on zarr's own.
    """

    def __init__(self, stream: read.Stream[Item, Any], *, awaited: bool) -> None:
        self._stream = stream
        self._awaited = awaited
        self._open: weakref.WeakSet[Items[Item]] = weakref.WeakSet()

    def __aiter__(self) -> AsyncIterator[Item]:
        items: Items[Item] = Items(self._stream, awaited=self._awaited)
        self._open.add(items)
        return items

    def __iter__(self) -> Never:
        raise TypeError("this stream is awaited: use 'async for', or the function of the same name in zarrstream")

    def __len__(self) -> int:
        return len(self._stream)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return repr(self._stream).replace("<", "<asynchronous ", 1)

    def __reduce__(self) -> Never:
        raise TypeError("a stream does not pickle: send the array, and make the stream where it is used")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every iterator of this stream."""
        for items in list(self._open):
            await items.aclose()


class Items(AsyncIterator[Item]):
    """One pass of an `AsyncStream`. Tasks may share it: each item goes to one of them.

    Parameters
    ----------
    stream : ChunkStream or SliceStream
        What to pass over.
    awaited : bool
        Whether requests run on the running loop, or on zarr's own.
    """

    def __init__(self, stream: read.Stream[Item, Any], *, awaited: bool) -> None:
        self._plan, begin, self._tally = stream.beginning()
        self._pass = OnLoop(self._plan, begin, awaited=awaited)

    async def __anext__(self) -> Item:
        while True:
            item = await self._pass.next()
            if self._plan.progress is not None:
                try:
                    self._plan.progress(self._tally.add(item))
                except BaseException as error:
                    await self._pass.end(error)
                    raise
            if type(item) is not Skipped:
                return cast("Item", item)

    async def aclose(self) -> None:
        """End the pass; a second time does nothing."""
        await self._pass.close()


def stream_chunks(
    array: AnyArray,
    *,
    region: object = None,
    concurrency: int | None = None,
    ordered: bool = True,
    filter: Filter | None = None,  # noqa: A002  # the word that users look for
    include_missing: bool = True,
    on_error: OnError = "raise",
    timeout: float | None = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    writable: bool = False,
    progress: OnProgress | None = None,
) -> AsyncStream[Chunk]:
    """Stream an array chunk by chunk with ``async for``; all else is as in `zarrstream.stream_chunks`."""
    stream = read.stream_chunks(
        array,
        region=region,
        concurrency=concurrency,
        ordered=ordered,
        filter=filter,
        include_missing=include_missing,
        on_error=on_error,
        timeout=timeout,
        max_bytes=max_bytes,
        writable=writable,
        progress=progress,
    )
    return AsyncStream(stream, awaited=lives_here(array))


def stream_slices(
    array: AnyArray,
    axis: int | str = 0,
    *,
    start: int = 0,
    stop: int | None = None,
    step: int | None = None,
    thickness: int = 1,
    region: object = None,
    concurrency: int | None = None,
    ordered: bool = True,
    on_error: OnError = "raise",
    timeout: float | None = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    writable: bool = False,
    progress: OnProgress | None = None,
) -> AsyncStream[Slice]:
    """Stream an array slice by slice with ``async for``; all else is as in `zarrstream.stream_slices`."""
    stream = slices.stream_slices(
        array,
        axis,
        start=start,
        stop=stop,
        step=step,
        thickness=thickness,
        region=region,
        concurrency=concurrency,
        ordered=ordered,
        on_error=on_error,
        timeout=timeout,
        max_bytes=max_bytes,
        writable=writable,
        progress=progress,
    )
    return AsyncStream(stream, awaited=lives_here(array))


async def write_stream(
    array: AnyArray,
    source: Iterable[Any] | AsyncIterable[Any],
    *,
    concurrency: int | None = None,
    checkpoint: Checkpoint | OnProgress | None = None,
    filter: Filter | None = None,  # noqa: A002  # the word that users look for
    on_error: OnError = "raise",
    timeout: float | None = TIMEOUT,  # noqa: ASYNC109  # it is for each chunk, not for the whole
    max_bytes: int = MAX_BYTES,
    partial: Partial = "refuse",
    progress: OnProgress | None = None,
) -> WriteReport:
    """Write an iterable or asynchronous iterable into an array; all else is as in `zarrstream.write_stream`."""
    limits = Limits(concurrency, timeout, max_bytes)
    plan = plan_of(array, source, limits, checkpoint, filter, on_error, progress, partial)
    loop = asyncio.get_running_loop() if lives_here(array) else zarr_loop()
    with observer_of(plan.codec, "write") as observer, observer.inside():
        items = _awaited(source)
        try:
            return await _write(plan, observer, loop, items)
        finally:
            await items.aclose()


async def _write(
    plan: WritePlan, observer: Observer, loop: asyncio.AbstractEventLoop, source: AsyncIterator[Any]
) -> WriteReport:
    record = None
    await await_on(loop, plan.codec.store_repaired_document())
    if plan.checkpoint is not None:
        there = await await_on(loop, stored_objects(plan.codec, plan.limits.timeout))
        # In a thread: to read a record of a million chunks, and to compare it with a listing, takes seconds.
        record = await asyncio.to_thread(plan.checkpoint.open, plan.codec, there)
    inbox = observer.loop_inbox()
    try:
        work = Writing(plan, observer, inbox, loop, record)
        try:
            await _run(work, inbox, source)
        finally:
            await work.window.aclose()
    finally:
        if record is not None:
            await asyncio.to_thread(record.close)  # it publishes, and the loop has others to serve
    return work.tally.report()


async def _run(work: Writing, inbox: LoopInbox, source: AsyncIterator[Any]) -> None:
    pull = Pull(work, inbox)
    try:
        await _take_steps(work, inbox, pull, source)
    finally:
        pull.close()


async def _take_steps(work: Writing, inbox: LoopInbox, pull: Pull, source: AsyncIterator[Any]) -> None:
    steps = work.steps()
    item: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(item) if error is None else steps.throw(error)
        except StopIteration:
            return
        item = error = None
        if step is WAIT:
            await inbox.wait(work.window.patience())
            continue
        if step is GIVE_WAY:
            await asyncio.sleep(0)
            continue
        if step is PUBLISH:
            await asyncio.to_thread(work.publish)
            continue
        try:
            item = await pull.next(source)
        except Exception as failure:  # noqa: BLE001  # raised again once what the source yielded is written
            item = Failure(failure)
        error = pull.error


async def _awaited(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(source, AsyncIterable):
        given = aiter(source)
        try:
            async for item in given:
                yield item
        finally:
            if isasyncgen(given):
                await given.aclose()
    else:
        items = iter(source)
        with ended(items):
            for item in items:
                yield item
                await asyncio.sleep(0)  # a source that never waits leaves the loop to others now and then
