"""Traces through a traced store: streams, plain zarr, xarray and dask, and what one trace answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from tests.optional import require
from tests.streaming.spies import AsyncSpy
from zarrstream import Retry, aio, open_store, stream_chunks, telemetry
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.stores.wrappers.traced import TracedStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sight.conftest import Seen


@pytest.mark.parametrize("face", ["sync", "aio"])
@pytest.mark.parametrize("inner", [MemoryStore, AsyncSpy])
def test_under_a_stream_operations_are_children_of_chunks(seen: Seen, inner: Any, face: str) -> None:
    """Stream, chunk, operation: three floors of one trace, in threads and on loops."""
    array = zarr.create_array(TracedStore(inner()), shape=(12,), chunks=(1,), dtype="i4", fill_value=-1)
    array[:] = np.arange(12)
    seen.forget()

    async def read() -> list[int]:
        return [int(chunk.data[0]) async for chunk in aio.stream_chunks(array)]

    read_now = [int(chunk.data[0]) for chunk in stream_chunks(array)] if face == "sync" else asyncio.run(read())
    assert read_now == list(range(12))
    [stream], chunks = seen.spans("zarrstream.stream"), seen.spans("zarrstream.chunk.read")
    chunk_of = {chunk.context.span_id: chunk.attributes["zarrstream.chunk.key"] for chunk in chunks}
    operations = seen.spans("zarrstream.store.get")
    assert {chunk_of[span.parent.span_id]: span.attributes["zarrstream.store.key"] for span in operations} == {
        f"c/{number}": f"c/{number}" for number in range(12)
    }
    assert {span.context.trace_id for span in (*chunks, *operations)} == {stream.context.trace_id}


def test_one_trace_answers_the_three_questions(seen: Seen) -> None:
    """How many reads did this make, how long did each take, where was the time spent (zarr-python#2958)."""
    slow = FaultyStore(MemoryStore(), Fault(kind="latency", operation="get", key="a/c/*", seconds=0.01))
    store = TracedStore(slow)
    array = zarr.create_array(store, name="a", shape=(64, 64), chunks=(16, 16), dtype="f8", fill_value=-1)
    array[...] = np.random.default_rng(0).random((64, 64))
    tracer = telemetry.sight().tracer  # type: ignore[union-attr]
    before = len(slow.calls)
    seen.forget()
    with tracer.start_as_current_span("open and read") as operation:
        list(stream_chunks(zarr.open_array(store, path="a", mode="r")))
    trace = [span for span in seen.spans() if span.context.trace_id == operation.get_span_context().trace_id]
    assert len(trace) == len(seen.spans())
    reads = [span for span in trace if span.name == "zarrstream.store.get"]
    of_chunks = [span for span in reads if span.attributes["zarrstream.store.key"].startswith("a/c/")]
    assert len(of_chunks) == 16
    assert len(reads) == sum(call.operation == "get" for call in slow.calls[before:])
    assert all((span.end_time - span.start_time) / 1e9 >= 0.01 for span in of_chunks)
    chunks = [span for span in trace if span.name == "zarrstream.chunk.read"]
    fetched = sum(span.attributes["zarrstream.chunk.fetch.duration"] for span in chunks)
    decoded = sum(span.attributes["zarrstream.chunk.decode.duration"] for span in chunks)
    assert fetched >= 16 * 0.01 > decoded > 0


def test_plain_zarr_is_seen(seen: Seen) -> None:
    """Code that does not stream makes spans as well, below the caller's."""
    array = zarr.create_array(TracedStore(MemoryStore()), shape=(8,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = 1
    tracer = telemetry.sight().tracer  # type: ignore[union-attr]
    seen.forget()
    with tracer.start_as_current_span("getitem") as operation:
        assert array[:].sum() == 8
    reads = seen.spans("zarrstream.store.get")
    assert sorted(span.attributes["zarrstream.store.key"] for span in reads) == ["c/0", "c/1", "c/2", "c/3"]
    assert {span.parent.span_id for span in reads} == {operation.get_span_context().span_id}


def test_xarray_and_dask_are_seen(seen: Seen) -> None:
    """What xarray writes and dask reads goes through the same doors."""
    xarray = require("xarray")
    require("dask.array")
    store = TracedStore(MemoryStore())
    xarray.Dataset({"t": ("x", np.arange(8.0))}).chunk(x=2).to_zarr(store, zarr_format=3, consolidated=False)
    seen.forget()
    with xarray.open_zarr(store, zarr_format=3, consolidated=False) as dataset:
        assert float(dataset.t.sum()) == 28
    keys = [span.attributes["zarrstream.store.key"] for span in seen.spans("zarrstream.store.get")]
    assert {f"t/c/{number}" for number in range(4)} <= set(keys)


def test_an_exception_is_recorded_where_it_came_from(seen: Seen) -> None:
    """Under a stream the operation records it; chunk and stream say that they failed, and record nothing more."""
    store = TracedStore(
        FaultyStore(MemoryStore(), Fault(kind="error", operation="get", key="c/3", error=ConnectionResetError))
    )
    array = zarr.create_array(store, shape=(8,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = 1
    seen.forget()
    with pytest.raises(Exception, match="could not be read"):
        list(stream_chunks(array))
    recorded = [span.name for span in seen.spans() for _ in span.events]
    assert recorded == ["zarrstream.store.get"]
    failed = {span.name for span in seen.spans() if "error.type" in span.attributes}
    assert failed == {"zarrstream.store.get", "zarrstream.chunk.read", "zarrstream.stream"}


@pytest.mark.parametrize("place", ["memory://", "sqlite:///", ""])
def test_a_retry_that_came_through_is_no_error(seen: Seen, place: str, tmp_path: Path) -> None:
    """A call that `retry` made again is two attempts on operation and chunk, one retry counted, and no failure."""
    require("tenacity")
    fault = Fault(kind="error", operation="get", key="c/1", nth=1)
    store = open_store(f"faulty+{place}{tmp_path}/x", retry=Retry(base=0.001), trace=True, faults=[fault])
    array = zarr.create_array(store, shape=(8,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = 1
    seen.forget()
    list(stream_chunks(array))
    attempts = {
        span.attributes.get("zarrstream.store.key") or span.attributes["zarrstream.chunk.key"]: span.attributes.get(
            "zarrstream.attempts"
        )
        for name in ("zarrstream.store.get", "zarrstream.chunk.read")
        for span in seen.spans(name)
    }
    assert attempts == {"c/0": None, "c/1": 2, "c/2": None, "c/3": None}
    assert all(span.status.is_unset and not span.events for span in seen.spans())
    assert seen.total("zarrstream.retries", store_operation="get") == 1
    store.close()
