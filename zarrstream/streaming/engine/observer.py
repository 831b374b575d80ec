"""Who watches a stream: nobody, here. What watches puts parts of its own in the place of these.

A stream asks its observer for its parts once, when a pass begins. Where nobody listens these are the plain ones, and
watching costs a chunk nothing; where somebody does, `zarrstream.streaming.sight` hands out watched ones.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Self

from zarrstream import telemetry
from zarrstream.streaming.engine.window import Inbox, LoopInbox, Window
from zarrstream.streaming.writing.frontier import Frontier

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from zarrstream.errors import ChunkError
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.job import Halt
    from zarrstream.streaming.engine.workers import Line
    from zarrstream.streaming.reading.decode import Decoder
    from zarrstream.streaming.transport.stores import LoopTransport, SyncPort


class Observer:
    """Watches nothing: the parts are as they are.

    As a context manager it surrounds a pass, and is told how that ended.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Take note of the pass's end, once its window is closed.

        Parameters
        ----------
        error : BaseException or None
            What ended it; one that is no `Exception` (`GeneratorExit`, a cancelled task's) where it was left early.
        """

    def inside(self) -> AbstractContextManager[Any]:
        """Surround what belongs to the pass: threads and tasks that are started in here carry its context."""
        return nullcontext()

    def inbox(self) -> Inbox:
        """Where finished jobs arrive for a consumer in a thread."""
        return Inbox()

    def loop_inbox(self) -> LoopInbox:
        """Where finished jobs arrive for a consumer on the running loop."""
        return LoopInbox()

    def window(self, line: Line, inbox: Inbox | LoopInbox, halt: Halt, **limits: Any) -> Window:
        """Make the pass's window; ``limits`` are `Window`'s own."""
        return Window(line, inbox, halt, **limits)

    def frontier(self) -> Frontier:
        """What follows the items of a source."""
        return Frontier()

    def port(self, port: SyncPort | None) -> SyncPort | None:
        """What reads and writes in the calling thread."""
        return port

    def awaited(self, transport: LoopTransport) -> LoopTransport:
        """What is awaited."""
        return transport

    def decoder(self, decoder: Decoder) -> Decoder:
        """What makes chunks of bytes."""
        return decoder

    def encoder(self, codec: ArrayCodec) -> ArrayCodec:
        """What makes bytes of chunks."""
        return codec

    def policy(self, policy: Callable[[ChunkError], object] | None) -> Callable[[ChunkError], object] | None:
        """What decides about a chunk that failed; None where it ends the stream."""
        return policy


UNWATCHED: Final = Observer()


def observer_of(codec: ArrayCodec, kind: str) -> Observer:
    """Ask whether anybody listens, and return what a pass tells it: nothing, or all.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    kind : str
        What streams: ``"chunks"``, ``"slices"`` or ``"write"``.
    """
    if (sight := telemetry.sight()) is None:
        return UNWATCHED
    from zarrstream.streaming.sight import StreamSight

    return StreamSight(sight, codec, kind)
