"""One pass over a source: pulled when there is room, gathered into runs and shards, written, acknowledged, recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from zarrstream.errors import ChunkTimeoutError
from zarrstream.streaming.chunk_errors import write_error
from zarrstream.streaming.engine.job import Failure, Halt, Job, NoWorkerError, Overdue
from zarrstream.streaming.engine.pace import Pace
from zarrstream.streaming.engine.window import GIVE_WAY, WAIT
from zarrstream.streaming.options import cores, policy_of
from zarrstream.streaming.writing.batches import Gather
from zarrstream.streaming.writing.cuts import Piece, part_of
from zarrstream.streaming.writing.frontier import Item
from zarrstream.streaming.writing.source import parse, pieces_of, whole, whole_chunk
from zarrstream.streaming.writing.store import ELIDED, UNWRITTEN, Saver
from zarrstream.streaming.writing.tally import WriteTally

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Iterable

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.engine.observer import Observer
    from zarrstream.streaming.engine.window import Inbox, LoopInbox
    from zarrstream.streaming.writing.plan import WritePlan
    from zarrstream.streaming.writing.record_writer import Writer

PULL: Final = object()  # what the steps yield to have the source's next item sent in
PUBLISH: Final = object()  # what the steps yield to have `Writing.publish` called, which may take its time
END: Final = object()  # what is sent in when the source has no more
NOTHING_YET: Final = object()  # what is sent in when there is something else to do before the source has an item


class Writing:
    """One pass.

    Parameters
    ----------
    plan : WritePlan
        What to write where.
    observer : Observer
        Who watches.
    inbox : Inbox or LoopInbox
        Where acknowledgements arrive: for a thread, or for a loop.
    loop : asyncio.AbstractEventLoop
        Where an awaited store lives.
    record : Writer or None
        The opened checkpoint.
    """

    def __init__(
        self,
        plan: WritePlan,
        observer: Observer,
        inbox: Inbox | LoopInbox,
        loop: asyncio.AbstractEventLoop,
        record: Writer | None,
    ) -> None:
        limits = plan.limits
        saver = Saver(plan.codec, observer, limits.requests, merges=plan.merges)
        saver.sweep()
        threads = limits.threads if saver.synchronous else min(cores(), limits.requests)
        slots = 2 * threads if saver.synchronous else limits.requests + 2 * threads
        if (
            record is not None
        ):  # what is stored and not yet recorded when a kill comes is written again: no more than this
            slots = threads if saver.synchronous else limits.requests
        self._plan, self._record = plan, record
        self._policy = observer.policy(policy_of(plan.on_error))
        self.window = observer.window(
            saver.line(loop),
            inbox,
            Halt("stop all" if self._policy is None else "go on"),
            threads=threads,
            slots=slots,
            ahead=slots,
            max_bytes=limits.max_bytes,
            timeout=limits.timeout,
        )
        self._gather = Gather(plan.codec, singly=not saver.synchronous, max_bytes=limits.max_bytes)
        self._threads = threads
        self._workers = threads if saver.synchronous else limits.requests
        self.tally = WriteTally(plan, record, observer.frontier())
        self._pace = Pace()
        self._busy: dict[Index, int] = {}
        self._pieces: dict[Job, list[Piece]] = {}
        self._tainted: set[Index] = set()
        self._ended: tuple[list[tuple[list[Piece], Failure]], list[list[Piece]]] = ([], [])

    def publish(self) -> None:
        """Have the store publish what it acknowledged, and record it."""
        if self._record is not None:
            self._record.flush()

    def steps(self) -> Generator[Any, Any, None]:
        """Yield `PULL` for the next item (or `END`, or a `Failure` of the source) and `WAIT` for an acknowledgement.

        `PUBLISH` asks for a call of `publish`, in whichever thread; `GIVE_WAY` lets others have a turn.

        After an error nothing more is written, and what was in flight and is stored is recorded.
        """
        try:
            yield from self._run()
        except Exception:
            self.window.wind_down()
            while not self.window.is_over:
                yield WAIT
                self._acknowledge()
            self.window.cancel_requests()
            self.window.wait_for_all()
            while not self.window.idle:  # calls in threads: one that still writes must not be left behind
                yield WAIT
                self._acknowledge()
            raise

    def _run(self) -> Generator[Any, Any, None]:
        source_error: BaseException | None = None
        while True:
            yield from self._take_in()
            if not self._gather.has_room(self.window.nbytes):
                yield from self._make_room()
                continue
            item = yield PULL
            if item is NOTHING_YET:
                continue
            if item is END:
                break
            if isinstance(item, Failure):
                source_error = item.error
                break
            source_error = yield from self._accept(item)
            if source_error is not None:
                break
            yield from self._send_ready()
        for batch in self._gather.rest():
            yield from self._send(batch)
        yield from self._take_in()  # what ended while the source was waited for: perhaps nothing is under way any more
        while not self.window.idle:
            yield WAIT
            yield from self._take_in()
        if source_error is not None:
            raise source_error
        self.tally.check_sum()

    def _accept(self, given: object) -> Generator[Any, Any, Exception | None]:
        """Take an item in; return the error of one that is none, or of ``filter``: what came before it is written."""
        plan = self._plan
        grid = plan.codec.grid
        try:
            item, pieces = self._taken(given)
        except Exception as error:  # noqa: BLE001  # it is raised again once what came before the item is written
            return error
        self.tally.add(item)
        for index, where, part in pieces:
            try:
                left_out = self._is_done(index, where) or (plan.filter is not None and not plan.filter(index))
            except Exception as error:  # noqa: BLE001  # it is raised again once what came before the chunk is written
                return error
            self.tally.pull()
            if left_out:
                self._gather.leave_out(index, where)
                self.tally.skip(item)
                if self._pace.is_over:
                    yield GIVE_WAY
                    self._pace.begin()
                continue
            if self._gather.holds(index):  # an earlier item for the same chunk goes first
                yield from self._flush()
            if where is None:
                self._gather.add(Piece(index, grid.object_of(index), whole(plan.codec, part), part.nbytes, (item,)))
            elif not self._gather.extend(index, where, part, item):
                self._gather.add(part_of(plan.codec, index, where, part, item))
            if not self._gather.has_room(self.window.nbytes):
                yield from self._send_ready()
        return None

    def _taken(self, given: object) -> tuple[Item, Iterable[tuple[Index, Region | None, Any]]]:
        """Check an item of the source, and cut it into the chunks that it holds."""
        codec = self._plan.codec
        if (alone := whole_chunk(codec, given)) is not None:
            return Item(waiting=1, last=alone[0]), ((alone[0], None, alone[1]),)
        region, data = parse(codec, given, merges=self._plan.merges)
        last = tuple(stop - 1 for _, stop in codec.grid.covering(region))
        return Item(waiting=codec.grid.count(region), last=last), pieces_of(codec, region, data)

    def _is_done(self, index: Index, where: Region | None) -> bool:
        return self._record is not None and self._record.passes_over(index, where)

    def _send_ready(self) -> Generator[Any, Any, None]:
        # Where workers are idle a short run is better than none: a slow source is written as it comes.
        hungry = self.window.unfinished < self._threads
        for batch in self._gather.ready(hungry=hungry):
            yield from self._send(batch)

    def _flush(self) -> Generator[Any, Any, None]:
        for batch in self._gather.singles():
            yield from self._send(batch)

    def _make_room(self) -> Generator[Any, Any, None]:
        yield from self._flush()
        if self.window.unfinished < self._workers and not self._gather.is_empty:
            for batch in self._gather.oldest():
                yield from self._send(batch)
        elif not self._gather.has_room(self.window.nbytes):
            yield WAIT

    def _send(self, pieces: list[Piece]) -> Generator[Any, Any, None]:
        objects = {piece.obj for piece in pieces}
        while not self.window.has_room(0) or objects & self._busy.keys():
            yield WAIT
            yield from self._take_in()
        if objects & self._tainted:
            yield from self._mend(pieces, Failure(RuntimeError("an earlier write of it is stuck and may still end")))
            return
        self._submit(pieces)

    def _submit(self, pieces: list[Piece]) -> None:
        nbytes = len(pieces) * self._plan.codec.grid.chunk_nbytes
        if self._plan.merges:
            nbytes = sum(piece.held(self._plan.codec.grid.chunk_nbytes) for piece in pieces)
        for obj in {piece.obj for piece in pieces}:
            self._busy[obj] = self._busy.get(obj, 0) + 1
        if self._record is not None:
            self._record.begins(pieces)
        job = self.window.submit([piece.index for piece in pieces], nbytes, [piece.load for piece in pieces])
        self._pieces[job] = pieces

    def _take_in(self) -> Generator[Any, Any, None]:
        self.take_in_meanwhile()
        failures, unwritten = self._ended
        self._ended = ([], [])
        if self._record is not None and self._record.is_due:
            yield PUBLISH
        for pieces, failure in failures:
            yield from self._mend(pieces, failure)
        for pieces in unwritten:
            yield from self._send(pieces)

    def take_in_meanwhile(self) -> bool:
        """Record and count what is stored while the source takes its time; return whether a failure ends the write."""
        failures, unwritten = self._acknowledge()
        self._ended[0].extend(failures)
        self._ended[1].extend(unwritten)
        return self._policy is None and bool(self._ended[0])

    def _acknowledge(self) -> tuple[list[tuple[list[Piece], Failure]], list[list[Piece]]]:
        """Take in what has ended: record and count what is stored; return what failed, and what was not come to.

        Pieces that one request failed for come together.
        """
        ended = [(job, job.results) for job in self.window.settle()]
        for job, first, last in self.window.overdue():
            late = [Failure(Overdue(job.thread))] * (last - first)
            self._tainted |= {self._plan.codec.grid.object_of(index) for index in job.indices[first:last]}
            job.halt.failed(job)
            ended.append((job, [*job.results[:first], *late]))
        failures: list[tuple[list[Piece], Failure]] = []
        unwritten: list[list[Piece]] = []
        for job, results in ended:
            pieces = self._pieces.pop(job)
            self.window.release(job)
            self._unlock(pieces)
            stored, again = [], pieces[len(results) :]
            for piece, result in zip(pieces, results, strict=False):
                if result is UNWRITTEN:
                    again.append(piece)
                elif not isinstance(result, Failure):
                    stored.append((piece, result))
                elif failures and failures[-1][1].error is result.error:
                    failures[-1][0].append(piece)
                else:
                    failures.append(([piece], result))
            self._settle(stored)
            if again and not job.halt.fails_fast:
                unwritten.append(again)
        return failures, unwritten

    def _settle(self, stored: list[tuple[Piece, Any]]) -> None:
        if self._record is not None:
            whole = [(piece.index, result) for piece, result in stored if piece.is_whole]
            self._record.add("stored", [index for index, result in whole if result is not ELIDED])
            self._record.add("elided", [index for index, result in whole if result is ELIDED])
            for piece, result in stored:
                if not piece.is_whole:
                    self._record.add_part(piece, "elided" if result is ELIDED else "stored")
        for piece, _ in stored:
            self.tally.write(piece)

    def _unlock(self, pieces: list[Piece]) -> None:
        for obj in {piece.obj for piece in pieces}:
            self._busy[obj] -= 1
            if not self._busy[obj]:
                del self._busy[obj]

    def _mend(self, pieces: list[Piece], failure: Failure) -> Generator[Any, Any, None]:
        """Apply the error policy to the chunks that one failure has; a retry writes all that are left of them."""
        if isinstance(failure.error, NoWorkerError):
            raise failure.error.told()
        for position, piece in enumerate(pieces):
            error = write_error(self._plan.codec, self._plan.limits.timeout, piece.index, failure.error)
            if self._policy is None:
                raise error
            if self._policy(error) == "retry" and not isinstance(error, ChunkTimeoutError):
                yield from self._send(pieces[position:])
                return
            if self._record is not None:
                self._record.give_up(piece)
            self.tally.fail(piece, error)
