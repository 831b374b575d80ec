"""What failed, what was mended, and what was given up: told once, where it happened, and on failure only."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.sight.streams import events, failing, of_chunks, run
from tests.streaming.spies import AsyncSpy, Spy, filled
from zarrstream import ChunkReadError, ChunkTimeoutError, ChunkWriteError, stream_chunks, write_stream

if TYPE_CHECKING:
    from tests.sight.conftest import Seen


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("way", ["read", "write"])
def test_a_failure_is_told_once(seen: Seen, kind: type, way: str) -> None:
    """The chunk failed, and the stream; the exception is recorded on the chunk alone, and on no other chunk."""
    store = kind()
    array, values = filled(store)
    failing(store, 1)
    with pytest.raises((ChunkReadError, ChunkWriteError)):
        run(way, array, values)
    found, stream = of_chunks(seen, way), seen.span("zarrstream.stream")
    assert {index for index, span in found.items() if not span.status.is_unset} == {(1, 1)}
    assert found[1, 1].attributes["error.type"] == stream.attributes["error.type"] == "ConnectionResetError"
    assert stream.attributes["zarrstream.stream.outcome"] == "error"
    assert stream.attributes["zarrstream.stream.failed"] == 1
    assert events(seen) == ["ConnectionResetError"]
    assert seen.total("zarrstream.chunk.duration", error_type="ConnectionResetError") == 1


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("way", ["read", "write"])
def test_a_mended_retry_is_no_error(seen: Seen, kind: type, way: str) -> None:
    """A chunk that came at the third attempt has one span, which says so and failed not."""
    store = kind()
    array, values = filled(store)
    failing(store, 2)
    run(way, array, values, on_error=lambda _: "retry")
    found = of_chunks(seen, way)
    assert found[1, 1].attributes["zarrstream.attempts"] == 3
    assert all(span.status.is_unset for span in seen.spans())
    assert events(seen) == []
    assert seen.total("zarrstream.chunk.duration", error_type="ConnectionResetError") == 0
    assert seen.total("zarrstream.chunk.duration") == len(found)


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("policy", ["skip", lambda _: None], ids=["skip", "callable"])
def test_a_skipped_chunk_failed_and_its_stream_did_not(seen: Seen, kind: type, policy: Any) -> None:
    """The stream counts it, and completes."""
    store = kind()
    array, _ = filled(store)
    failing(store, -1)
    assert len(list(stream_chunks(array, on_error=policy))) == 11
    stream = seen.span("zarrstream.stream")
    assert stream.attributes["zarrstream.stream.outcome"] == "completed"
    assert stream.attributes["zarrstream.stream.failed"] == 1
    assert stream.attributes["zarrstream.stream.chunks"] == 11
    assert of_chunks(seen, "read")[1, 1].attributes["error.type"] == "ConnectionResetError"
    assert seen.total("zarrstream.chunk.duration", error_type="ConnectionResetError") == 1


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_time_out_is_a_failure_of_its_chunk(seen: Seen, way: str) -> None:
    """A call that is stuck ends in a span that says what became of it."""
    store, gate = Spy(), threading.Event()
    array, values = filled(store)
    store.hook = lambda _, key: key == "c/1/1" and gate.wait(60)
    try:
        with pytest.raises(ChunkTimeoutError):
            run(way, array, values, timeout=2)
    finally:
        gate.set()
    found = of_chunks(seen, way)
    assert found[1, 1].attributes["error.type"] == "zarrstream.errors.ChunkTimeoutError"
    assert events(seen) == ["zarrstream.errors.ChunkTimeoutError"]


def test_a_source_that_fails_fails_the_stream(seen: Seen) -> None:
    """The exception is the source's, and recorded on the stream; the chunks before it are written."""
    array, values = filled(Spy())

    def source() -> Any:
        yield (0, 0), values[:5, :4]
        raise LookupError("no more")

    with pytest.raises(LookupError):
        write_stream(array, source())
    assert seen.span("zarrstream.stream").attributes["error.type"] == "LookupError"
    assert len(of_chunks(seen, "write")) == 1
    assert events(seen) == ["LookupError"]
