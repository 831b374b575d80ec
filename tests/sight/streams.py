"""Streams that are looked at, stores that fail or tell who called, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.streaming.spies import Spy
from zarrstream import stream_chunks, write_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sight.conftest import Seen


def of_chunks(seen: Seen, way: str) -> dict[tuple[int, ...], Any]:
    """Return the chunks' spans by index: one for each, all below the stream's, which ended last."""
    stream, chunks = seen.span("zarrstream.stream"), seen.spans(f"zarrstream.chunk.{way}")
    found = {span.attributes["zarrstream.chunk.index"]: span for span in chunks}
    assert len(found) == len(chunks)
    assert {(span.parent.span_id, span.context.trace_id) for span in chunks} <= {
        (stream.context.span_id, stream.context.trace_id)
    }
    assert all(stream.start_time <= span.start_time <= span.end_time <= stream.end_time for span in chunks)
    return found


def run(way: str, array: Any, values: Any, **options: Any) -> None:
    """Read all chunks, or write those of one column."""
    if way == "read":
        list(stream_chunks(array, **options))
    else:
        write_stream(array, [((row, 1), values[:5, :4]) for row in range(4)], **options)


def note_parent(parents: dict[str, int]) -> Callable[[str, str], Any]:
    """Return a hook of a store that notes which span is the current one, for each key."""
    from opentelemetry import trace

    async def note(_: str, key: str) -> None:
        parents[key] = trace.get_current_span().get_span_context().span_id

    return note


def failing(store: Any, times: int, key: str = "c/1/1") -> None:
    """Have a store's calls for a key fail so often."""
    left = [times]

    def fail(_: str, asked: str) -> None:
        if asked == key and left[0]:
            left[0] -= 1
            raise ConnectionResetError("the other side is gone")

    async def fail_awaited(operation: str, asked: str) -> None:
        fail(operation, asked)

    store.hook = fail if isinstance(store, Spy) else fail_awaited


def events(seen: Seen) -> list[str]:
    """Return the exceptions that were recorded."""
    return [event.attributes["exception.type"] for span in seen.spans() for event in span.events]
