"""One pass over an array: the window kept full, results in order, a policy for errors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from zarrstream.errors import ChunkReadError, UnsupportedArrayError
from zarrstream.streaming.chunk import Chunk
from zarrstream.streaming.chunk_errors import read_error
from zarrstream.streaming.engine.job import Failure, Halt, Job, NoWorkerError, Overdue
from zarrstream.streaming.engine.window import GIVE_WAY, WAIT
from zarrstream.streaming.layout.grid import Run
from zarrstream.streaming.options import check_callables, check_on_error, cores, policy_of
from zarrstream.streaming.reading.fetch import Loader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Iterable, Iterator

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.engine.window import Inbox, LoopInbox
    from zarrstream.streaming.layout.bitmap import Presence
    from zarrstream.streaming.options import Filter, Limits, OnError, OnProgress

#: What is to be delivered: a job from one of its results on, or chunks that have one failure.
_Part: TypeAlias = "tuple[Job, int] | tuple[list[Index], Failure]"


_LAST: Any = object()


@dataclass(frozen=True)
class Skipped:
    """A chunk that was given up; what steps yield in its place."""

    index: Index


@dataclass(frozen=True)
class ReadPlan:
    """A read, checked and ready to begin; see `stream_chunks` for the fields."""

    codec: ArrayCodec
    region: Region
    limits: Limits
    ordered: bool
    filter: Filter | None
    include_missing: bool
    on_error: OnError
    writable: bool
    progress: OnProgress | None
    kind: str = "chunks"

    def __post_init__(self) -> None:
        check_on_error(self.on_error)
        check_callables(filter=self.filter, progress=self.progress)
        if self.codec.opaque and not self.include_missing and self.codec.grid.shards is not None:
            raise UnsupportedArrayError(
                "include_missing=False needs zarr's default codec pipeline and buffers to look into shards: "
                "take include_missing=True, or reset zarr.config"
            )

    @property
    def chunk_count(self) -> int | None:
        """How many chunks will come, where that is known beforehand."""
        sure = self.filter is None and self.include_missing and self.on_error == "raise"
        return self.codec.grid.count(self.region) if sure else None

    def begin(self, observer: Observer, inbox: Inbox | LoopInbox, loop: asyncio.AbstractEventLoop) -> Reading:
        """Start a pass."""
        return Reading(self, observer, inbox, loop, (self.region,), cuts_shards=False)


class Reading:
    """One pass: keeps the window full, delivers results in order, applies the error policy.

    Parameters
    ----------
    plan : ReadPlan
        What to read.
    observer : Observer
        Who watches.
    inbox : Inbox or LoopInbox
        Where results arrive: for a thread, or for a loop.
    loop : asyncio.AbstractEventLoop
        Where an awaited store lives.
    regions : iterable of tuple of slice
        What to read, one after the other.
    cuts_shards : bool
        Whether one shard may lie in several regions.
    """

    def __init__(
        self,
        plan: ReadPlan,
        observer: Observer,
        inbox: Inbox | LoopInbox,
        loop: asyncio.AbstractEventLoop,
        regions: Iterable[Region],
        *,
        cuts_shards: bool,
    ) -> None:
        limits = plan.limits
        self._plan, self._regions = plan, regions
        self._loader = Loader(
            plan.codec,
            plan.region,
            observer,
            requests=limits.requests,
            cuts_shards=cuts_shards or plan.codec.grid.object_nbytes > limits.max_bytes,
            include_missing=plan.include_missing,
            writable=plan.writable,
        )
        self._in_threads = self._loader.synchronous
        threads = limits.threads if self._in_threads else min(cores(), limits.requests)
        # Twice as many awaited runs as requests: while one waits for its turn to be decoded, another one is fetched.
        slots = 2 * threads if self._in_threads else 2 * limits.requests + 2 * threads
        self._policy = observer.policy(policy_of(plan.on_error))
        self.window = observer.window(
            self._loader.line(loop),
            inbox,
            Halt("stop behind" if self._policy is None else "go on"),
            threads=threads,
            slots=slots,
            ahead=4 * slots,
            max_bytes=limits.max_bytes,
            timeout=limits.timeout,
        )
        self._workers = threads if self._in_threads else limits.requests

    def steps(self, present: Presence | None) -> Generator[Any, None, None]:
        """Yield chunks, `Skipped`, `WAIT` where only a finished job can take it on, and `GIVE_WAY`."""
        runs = self._runs(present)
        waiting: Run | None = next(runs, _LAST)
        jobs: deque[Job] = deque()
        while waiting is not _LAST or jobs:
            while waiting is not None and waiting is not _LAST and not self._is_failing:
                if not self.window.has_room(waiting.nbytes):
                    break
                jobs.append(self._submit(waiting))
                waiting = next(runs, _LAST)
            self._take_in()
            if (job := self._next(jobs)) is not None:
                yield from self._deliver(job)
            else:
                yield WAIT if waiting is not None else GIVE_WAY
            waiting = waiting or next(runs, _LAST)  # it had looked for long without finding one

    def _runs(self, present: Presence | None) -> Iterator[Run | None]:
        plan = self._plan
        for region in self._regions:
            yield from plan.codec.grid.runs(
                region,
                workers=self._workers,
                # Awaited stores answer slowly: there one request is one job.
                **({} if self._in_threads else {"most": 1}),
                max_bytes=plan.limits.max_bytes,
                wanted=plan.filter,
                present=present,
            )

    def _submit(self, run: Run, number: int | None = None) -> Job:
        return self.window.submit(run.indices, run.nbytes, run, number=number)

    @property
    def _is_failing(self) -> bool:
        return self.window.halt.limit != float("inf")

    def _next(self, jobs: deque[Job]) -> Job | None:
        if self._plan.ordered:
            return jobs.popleft() if jobs and self.window.is_done(jobs[0]) else None
        done = next((job for job in jobs if self.window.is_done(job)), None)
        if done is not None:
            jobs.remove(done)
        return done

    def _take_in(self) -> None:
        self.window.settle()
        for job, first, last in self.window.overdue():
            self._split(job, first, last)

    def _split(self, job: Job, first: int, last: int) -> None:
        """Keep what a job that was given up has, count its late chunks as failed, and read the rest anew."""
        run: Run = (
            job.load if isinstance(job.load, Run) else Run(job.indices, self._shard_of(job.indices[0]), job.nbytes)
        )
        job.kept = list(job.results[:first])  # whoever has the job may still write into its own list
        late = (run.indices[first:last], Failure(Overdue(job.thread)))
        job.halt.failed(job)
        if job.halt.fails_fast:
            job.after.append(late)
            return
        self._again(job, run, run.indices[len(job.kept) : first])
        job.after.append(late)
        self._again(job, run, run.indices[last:])

    def _again(self, job: Job, run: Run, indices: list[Index]) -> None:
        if indices:
            nbytes = len(indices) * self._plan.codec.grid.chunk_nbytes
            job.after.append(self._submit(Run(indices, run.shard, nbytes), job.number))

    def _shard_of(self, index: Index) -> Index | None:
        grid = self._plan.codec.grid
        return grid.object_of(index) if grid.shards is not None else None

    def _deliver(self, job: Job) -> Generator[Any, None, None]:
        """Yield a job's chunks in order; what has to be read anew comes in its place, however often that is."""
        todo: list[_Part] = [(job, 0)]
        while todo:
            part = todo.pop()
            if not isinstance(part[0], Job):
                yield from self._mend(todo, *part)
                continue
            job, first = part
            while not self.window.is_done(job):
                yield WAIT
                self._take_in()
            results = job.taken
            for position in range(first, len(results)):
                result, results[position] = results[position], None
                if type(result) is Chunk:
                    yield result
                    del result  # the consumer may hold it for long, nobody else need
                elif type(result) is Failure:
                    todo.append((job, position + 1))
                    todo.append(([job.indices[position], *_blamed(job, position, result)], result))
                    break
            else:
                self._check_sum(job, len(results))
                todo.extend((after, 0) if isinstance(after, Job) else after for after in reversed(job.after))
                self.window.release(job)

    def _check_sum(self, job: Job, found: int) -> None:
        """Refuse to go on as if all were well where a chunk was neither delivered nor told of."""
        found += sum(len(after.indices if isinstance(after, Job) else after[0]) for after in job.after)
        if found != len(job.indices) and not self._is_failing:
            index = job.indices[0]
            raise ChunkReadError(
                f"of {len(job.indices)} chunks from {index} on only {found} were read or reported: this is a fault of "
                "zarrstream; read them again, and please report it",
                index=index,
                key=self._plan.codec.key(self._plan.codec.grid.object_of(index)),
            )

    def _mend(self, todo: list[_Part], indices: list[Index], failure: Failure) -> Generator[Any, None, None]:
        """Apply the error policy to the first of the chunks that one failure has; a retry reads all of them."""
        if isinstance(failure.error, NoWorkerError):
            raise failure.error.told()
        index = indices[0]
        error = read_error(self._plan.codec, self._plan.limits.timeout, index, failure.error)
        if self._policy is None:
            self.window.wind_down()
            self.window.cancel_requests()
            while not self.window.is_over:  # what can end ends before the caller hears of it
                yield WAIT
                self._take_in()
            raise error
        if self._policy(error) == "retry":
            nbytes = len(indices) * self._plan.codec.grid.chunk_nbytes
            todo.append((self._submit(Run(indices, self._shard_of(index), nbytes), 0), 0))
            return
        yield Skipped(index)
        if indices[1:]:
            todo.append((indices[1:], failure))


def _blamed(job: Job, position: int, failure: Failure) -> list[Index]:
    """Take the chunks behind a failed one that have the same error: one request brought, or did not bring, them all."""
    results, found = job.taken, []
    for at in range(position + 1, len(results)):
        if type(results[at]) is Failure and results[at].error is failure.error:
            found.append(job.indices[at])
            results[at] = None
    return found
