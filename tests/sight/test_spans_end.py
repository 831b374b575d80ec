"""Every span that begins ends, however a stream ends; and an exception is an event of its span, or of the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.sight.streams import events, failing, run
from tests.streaming.spies import AsyncSpy, Spy, eventually, filled
from zarrstream import ChunkReadError, ChunkTimeoutError, ChunkWriteError, aio, stream_chunks, telemetry, write_stream

if TYPE_CHECKING:
    from tests.sight.conftest import Seen

WAYS = ["break", "exception", "error", "late", "skip", "cancelled", "write error", "write late", "source"]


@pytest.fixture
def unended(seen: Seen) -> Counter[str]:
    """The names of the spans that have begun and not ended."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor

    found: Counter[str] = Counter()

    class Count(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:  # the SDK's own
            found[span.name] += 1

        def on_end(self, span: Any) -> None:
            found[span.name] -= 1

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Count())
    assert seen.spans() == []
    return found


def hold(store: Any, held: Any) -> None:
    """Have the store's calls for some keys never come back by themselves."""

    async def awaited(_: str, key: str) -> None:
        if key in held:
            await asyncio.Event().wait()

    def blocking(_: str, key: str) -> None:
        if key in held:
            held[key].wait(10)

    store.hook = blocking if isinstance(store, Spy) else awaited


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("shards", [None, (10, 12)], ids=["plain", "sharded"])
@pytest.mark.parametrize("way", WAYS)
async def test_each_span_that_begins_ends(unended: Counter[str], seen: Seen, kind: Any, shards: Any, way: str) -> None:
    """Read or written, left, cancelled, failed or late: with the stream's span, and nothing stays in flight."""
    import threading

    array, values = await asyncio.to_thread(filled, kind(), shape=(40, 12), shards=shards)
    late = "c/1/1" if shards is None else "c/1/0"
    gate = threading.Event()
    held = {late: gate}
    source = [((slice(0, 40), slice(0, 12)), values)]
    try:
        if way == "break":
            for _ in stream_chunks(array):
                break
        elif way == "exception":
            with pytest.raises(ZeroDivisionError):
                [1 / 0 for _ in stream_chunks(array)]
        elif way == "error":
            failing(array.store, 1, late)
            with pytest.raises(ChunkReadError):
                list(stream_chunks(array))
        elif way == "late":
            hold(array.store, held)
            with pytest.raises(ChunkTimeoutError):
                list(stream_chunks(array, timeout=0.02))
        elif way == "skip":
            hold(array.store, held)
            list(stream_chunks(array, timeout=0.02, on_error="skip"))
        elif way == "cancelled":
            await cancelled(array)
        elif way == "write error":
            failing(array.store, 1, late)
            with pytest.raises(ChunkWriteError):
                write_stream(array, source)
        elif way == "write late":
            hold(array.store, held)
            with pytest.raises(ChunkTimeoutError):
                write_stream(array, source, timeout=0.02)
        else:
            with pytest.raises(ZeroDivisionError):
                write_stream(array, (1 / 0 for _ in source))
    finally:
        gate.set()
    assert eventually(lambda: not +unended and not -unended), unended
    assert seen.total("zarrstream.stream.in_flight") == seen.total("zarrstream.stream.buffer.usage") == 0
    stream = seen.span("zarrstream.stream")
    failed = {
        span.attributes["zarrstream.chunk.index"]
        for span in seen.spans()
        if "chunk" in span.name and not span.status.is_unset
    }
    assert len(failed) == stream.attributes["zarrstream.stream.failed"]
    assert (way in ("break", "exception", "cancelled", "skip")) == stream.status.is_unset


async def cancelled(array: Any) -> None:
    """Cancel a task that waits for a chunk."""
    entered, loop = asyncio.Event(), asyncio.get_running_loop()

    async def awaited(*_: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in aio.stream_chunks(array):
            entered.set()

    if not isinstance(array.store, Spy):
        array.store.hook = awaited
    task = asyncio.create_task(read())
    await entered.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("opted", ["", "logs", "logs/dup"])
def test_an_exception_is_an_event_of_the_log_where_that_is_wanted(
    seen: Seen, opted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the semantic conventions have it: of the span by default, of the log, or of both."""
    from opentelemetry import _logs
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor

    told: list[Any] = []

    class Keep(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            told.append(log_record.log_record)

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30000) -> bool:  # the SDK's own
            return True

    give_back_logs(monkeypatch)
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Keep())
    _logs.set_logger_provider(provider)
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", opted)
    array, values = filled(Spy())
    failing(array.store, 1)
    with pytest.raises(ChunkReadError):
        run("read", array, values)
    assert events(seen) == (["ConnectionResetError"] if opted != "logs" else [])
    assert len(told) == (1 if opted else 0)
    for record in told:
        [chunk] = [span for span in seen.spans("zarrstream.chunk.read") if not span.status.is_unset]
        assert record.span_id == chunk.context.span_id
        assert record.event_name == "zarrstream.chunk.read.exception"
        assert record.attributes["exception.type"] == "ConnectionResetError"
        assert record.attributes["exception.message"] == "the other side is gone"
        assert "Traceback" in record.attributes["exception.stacktrace"]


def give_back_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a log provider be set, until the test ends."""
    from opentelemetry import _logs
    from opentelemetry.util._once import Once

    monkeypatch.setattr(_logs._internal, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(_logs._internal, "_LOGGER_PROVIDER_SET_ONCE", Once())


def test_the_type_of_an_error_is_never_a_group() -> None:
    """What zarr raises as a group is told as what happened."""
    inner = ConnectionResetError("gone")
    group = ExceptionGroup("several", [ExceptionGroup("deeper", [inner]), ValueError()])
    chunk = ChunkReadError("chunk (0,)")
    chunk.__cause__ = group
    assert telemetry.error_type(group) == telemetry.error_type(chunk) == "ConnectionResetError"


def test_numpy_integers_reach_no_metric(seen: Seen) -> None:
    """Regions may be made of them; exporters write integers alone."""
    array = zarr.create_array({}, shape=(16,), chunks=(4,), dtype="i4")
    source = (((slice(at, at + 4),), np.ones(4, "i4")) for at in np.arange(0, 16, 4))
    told: list[Any] = []
    write_stream(array, source, progress=told.append)
    list(stream_chunks(array, region=np.s_[np.int64(0) : np.int64(8)], progress=told.append))
    values = [value for name in seen.metrics() for value in seen.points(name).values()]
    assert {type(value) for value in values} <= {int, float}
    assert {type(at) for now in told for at in (*(now.last_index or ()), now.done, now.failed)} == {int}
