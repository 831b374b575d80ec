"""`write_stream`: a source of chunks into an array, bounded, acknowledged, resumable."""

from __future__ import annotations

import os
from contextlib import closing, nullcontext
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from zarrstream.streaming.codecs.array import AnyArray, ArrayCodec, zarr_loop
from zarrstream.streaming.engine.faces import refuse_own_loop, run_on
from zarrstream.streaming.engine.job import Failure
from zarrstream.streaming.engine.observer import observer_of
from zarrstream.streaming.engine.window import GIVE_WAY, WAIT
from zarrstream.streaming.options import (
    MAX_BYTES,
    TIMEOUT,
    Filter,
    Limits,
    OnError,
    OnProgress,
    Partial,
    check_callable,
)
from zarrstream.streaming.transport.listing import stored_objects
from zarrstream.streaming.writing.checkpoint import Checkpoint
from zarrstream.streaming.writing.plan import WritePlan
from zarrstream.streaming.writing.writer import END, PUBLISH, Writing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from zarrstream.streaming.chunk import WriteReport
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.engine.window import Inbox
    from zarrstream.streaming.writing.record_writer import Writer


def write_stream(
    array: AnyArray,
    source: Iterable[Any],
    *,
    concurrency: int | None = None,
    checkpoint: Checkpoint | OnProgress | None = None,
    filter: Filter | None = None,  # noqa: A002  # the word that users look for
    on_error: OnError = "raise",
    timeout: float | None = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    partial: Partial = "refuse",
    progress: OnProgress | None = None,
) -> WriteReport:
    """Write a source of chunks into an array, with bounded memory; with a checkpoint, resumable after a kill.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        The target, opened for writing.
    source : iterable
        Of `Chunk`, ``(index, data)`` or ``(region, data)``: a tuple of ints is an index in the target's chunk grid, a
        tuple of slices a region in array coordinates that covers whole chunks (see ``partial``), and so is a mapping of
        dimension names to slices; for a `Chunk` its region decides. It
        is pulled in the caller's thread, one item at a time, and only when there is room. Items for one chunk are
        written in their order; the last wins. Data are copied where they could still change.
    concurrency : int, optional
        Threads on stores that support zarr's synchronous methods (default: the cores), requests on others (default:
        16).
    checkpoint : Checkpoint or callable, optional
        A `Checkpoint` skips chunks that were done when it was opened, and records each one that the store
        acknowledges. A callable receives a `Progress` after each chunk, as ``progress`` does.
    filter : callable, optional
        Called as ``filter(index)`` in order; falsy leaves the chunk out.
    on_error : {"raise", "skip"} or callable
        What a chunk that cannot be written does. ``"raise"`` ends the stream: nothing more is written once the error
        is there; ``"skip"`` logs, counts and goes on; a callable receives the error and may raise, return ``"retry"``
        to have the chunk written again (not after a time-out: the stuck call might still write), or anything else to
        skip it.
    timeout : float, optional
        Seconds that one chunk may take to be encoded and stored; None for no limit.
    max_bytes : int
        Bound of the decoded bytes gathered and in flight, plus one chunk. Chunks of a sharded array are gathered by
        shard; where the budget or the source ends first, an incomplete shard is merged with what is stored.
    partial : {"refuse", "merge"}
        What an item does whose region cuts through chunks. ``"refuse"`` ends the stream with an error. ``"merge"``
        gathers the parts of a chunk while ``max_bytes`` allows; where they do not make it whole, the stored chunk is
        read, merged with them and written. One stream of this process at a time merges into a chunk or shard, and on
        a local folder one process; on other stores one process may overwrite what another has merged, as in zarr.
    progress : callable, optional
        Receives a `Progress` after each chunk, in the caller's thread.

    Returns
    -------
    WriteReport
        What was written, skipped and given up.

    Raises
    ------
    UnalignedChunkError
        If an item's region cuts through a chunk, unless ``partial="merge"``.
    TypeError, ValueError
        If an argument or item is not what it has to be, or the array is read-only.
    CheckpointMismatchError, CheckpointLockedError
        If the checkpoint belongs to something else, or another writer holds it.
    ChunkWriteError
        A chunk could not be encoded or stored.
    ChunkTimeoutError
        A chunk took longer than ``timeout``: its state in the store is unknown, and it is not in the checkpoint.
    Exception
        What the source or ``filter`` raised, or an item that is none, once all that came before it is written.

    Notes
    -----
    While the source is waited for nothing else happens in the caller's thread: what is acknowledged meanwhile is
    recorded and told, and an error is raised, when the source has its next item. `zarrstream.aio.write_stream` does so
    at once, for a live source that may be silent for long. ``Progress.total`` is the source's length, where it has one,
    and grows by the chunks of each item that has several.

    A chunk that equals the fill value is elided, its key deleted, unless the array has ``write_empty_chunks``. What an
    acknowledgement survives is the store's promise. On local directories a chunk is renamed into place when it is
    whole; temporary files of killed writers are swept by the next call.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.create_array({}, shape=(6,), chunks=(3,), dtype="i4")
    >>> report = write_stream(array, (((i,), np.full(3, i + 1, "i4")) for i in range(2)))
    >>> report.written, array[...].tolist()
    (2, [1, 1, 1, 2, 2, 2])
    """
    limits = Limits(concurrency, timeout, max_bytes)
    plan = plan_of(array, source, limits, checkpoint, filter, on_error, progress, partial)
    loop = zarr_loop()
    refuse_own_loop(loop)
    items = iter(source)
    with ended(items), observer_of(plan.codec, "write") as observer, observer.inside():
        return _write(plan, observer, loop, items)


def ended(items: Iterator[Any]) -> AbstractContextManager[Any]:
    """Have a generator end with the pass: after an error its ``finally`` runs before the caller hears of it."""
    return closing(items) if isgenerator(items) else nullcontext()


def _write(plan: WritePlan, observer: Observer, loop: asyncio.AbstractEventLoop, source: Iterator[Any]) -> WriteReport:
    record: Writer | None = None
    run_on(loop, plan.codec.store_repaired_document())
    if plan.checkpoint is not None:
        record = plan.checkpoint.open(plan.codec, run_on(loop, stored_objects(plan.codec, plan.limits.timeout)))
    inbox = observer.inbox()
    try:
        work = Writing(plan, observer, inbox, loop, record)
        try:
            _run(work, inbox, source)
        finally:
            work.window.close()
    finally:
        if record is not None:
            record.close()
    return work.tally.report()


def _run(work: Writing, inbox: Inbox, source: Iterator[Any]) -> None:
    steps = work.steps()
    item: Any = None
    while True:
        try:
            step = steps.send(item)
        except StopIteration:
            return
        item = None
        if step is WAIT:
            inbox.wait(work.window.patience())
            continue
        if step is GIVE_WAY:
            continue
        if step is PUBLISH:
            work.publish()
            continue
        try:
            item = next(source, END)
        except Exception as error:  # noqa: BLE001  # raised again once what the source yielded is written
            item = Failure(error)


def plan_of(
    array: AnyArray,
    source: object,
    limits: Limits,
    checkpoint: Checkpoint | OnProgress | None,
    filter: Filter | None,  # noqa: A002  # as in `write_stream`
    on_error: OnError,
    progress: OnProgress | None,
    partial: Partial,
) -> WritePlan:
    """Check the arguments of `write_stream`."""
    _check_source(source)
    if isinstance(checkpoint, type):
        raise TypeError(f"checkpoint is the class {checkpoint.__name__} itself: write {checkpoint.__name__}(path)")
    listener: OnProgress | None = None
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        if isinstance(checkpoint, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a Checkpoint or a callable: write Checkpoint({str(checkpoint)!r})")
        check_callable("checkpoint", checkpoint)
        listener, checkpoint = checkpoint, None
    return WritePlan(
        codec=ArrayCodec(array),
        limits=limits,
        checkpoint=checkpoint,
        listener=listener,
        filter=filter,
        on_error=on_error,
        progress=progress,
        total=_total(source),
        partial=partial,
    )


def _check_source(source: Any) -> None:
    if hasattr(source, "__iter__") or hasattr(source, "__aiter__") or hasattr(source, "__getitem__"):
        return
    if callable(source):
        name = getattr(source, "__name__", "source")
        raise TypeError(f"a source is an iterable of chunks, and {name} is a function: call it: {name}()")
    raise TypeError(f"a source is an iterable of chunks, not {type(source).__name__}")


def _total(source: Any) -> int | None:
    try:
        return len(source)
    except Exception:  # noqa: BLE001  # it has no length, or cannot tell it yet: progress goes without a total
        return None
