"""The caller's span is above what another thread, process or cluster does for it."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.optional import require
from tests.streaming.spies import Spy, filled
from zarrstream import aio, stream_chunks, telemetry, write_stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sight.conftest import Seen


def read_elsewhere(folder: str) -> list[tuple[str, int, int | None]]:
    """Read an array in a process that has a provider of its own; return its spans: name, trace and parent."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    list(stream_chunks(zarr.open_array(folder, mode="r")))
    return [
        (span.name, span.context.trace_id, span.parent.span_id if span.parent else None)
        for span in exporter.get_finished_spans()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The folder of an array of two chunks."""
    zarr.create_array(tmp_path / "a", data=np.arange(4), chunks=(2,))
    return str(tmp_path / "a")


def assert_below(spans: list[Any], caller: Any) -> None:
    """The stream is a child of the caller, and all of it one trace."""
    context = caller.get_span_context()
    assert {trace for _, trace, _ in spans} == {context.trace_id}
    assert [parent for name, _, parent in spans if name == "zarrstream.stream"] == [context.span_id]
    assert [name for name, _, _ in spans].count("zarrstream.chunk.read") == 2


@pytest.mark.slow
def test_a_process_goes_on_with_the_trace(seen: Seen, folder: str) -> None:
    """`carry` takes the context into a process of a pool."""
    tracer = telemetry.sight().tracer  # type: ignore[union-attr]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with tracer.start_as_current_span("caller") as caller:
            future = pool.submit(telemetry.carry(read_elsewhere), folder)
        assert_below(future.result(60), caller)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_worker_of_a_dask_cluster_goes_on_with_the_trace(seen: Seen, folder: str) -> None:
    """`carry` takes the context into a process of a cluster."""
    distributed = require("distributed")
    tracer = telemetry.sight().tracer  # type: ignore[union-attr]
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        with tracer.start_as_current_span("caller") as caller:
            future = client.submit(telemetry.carry(read_elsewhere), folder)
        assert_below(future.result(60), caller)


def test_a_thread_of_a_pool_goes_on_with_the_trace(seen: Seen) -> None:
    """A pool's threads know no context; with `carry` the stream in one is a child of the caller."""
    array, _ = filled(Spy())
    tracer = telemetry.sight().tracer  # type: ignore[union-attr]
    with ThreadPoolExecutor(1) as pool, tracer.start_as_current_span("caller") as caller:
        pool.submit(lambda: list(stream_chunks(array))).result()
        pool.submit(telemetry.carry(lambda: list(stream_chunks(array)))).result()
    alone, below = seen.spans("zarrstream.stream")
    assert alone.parent is None
    assert below.parent.span_id == caller.get_span_context().span_id


def test_a_carried_callable_pickles_and_is_the_same() -> None:
    """Where nobody listens it is the callable, and nothing else."""
    carried = pickle.loads(pickle.dumps(telemetry.carry(sum)))
    assert carried([1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        telemetry.carry(divmod)(1, 0)


async def test_tasks_of_a_loop_keep_their_callers_apart(seen: Seen) -> None:
    """Two tasks that stream at once are below the span of each; reading and writing."""
    tracer = telemetry.sight().tracer  # type: ignore[union-attr]
    array, values = filled(Spy())

    async def work(name: str) -> int:
        with tracer.start_as_current_span(name) as caller:
            assert len([chunk async for chunk in aio.stream_chunks(array)]) == 12
            target = zarr.create_array(Spy(), shape=values.shape, chunks=(5, 4), dtype="i4")
            await aio.write_stream(target, aio.stream_chunks(array))
            return int(caller.get_span_context().trace_id)

    one, other = await asyncio.gather(work("one"), work("other"))
    assert one != other
    for name, count in (("zarrstream.stream", 3), ("zarrstream.chunk.read", 24), ("zarrstream.chunk.write", 12)):
        traces = [span.context.trace_id for span in seen.spans(name)]
        assert (traces.count(one), traces.count(other), len(traces)) == (count, count, 2 * count)


def test_a_consumer_never_has_the_streams_span(seen: Seen) -> None:
    """Between two chunks the consumer's own span is current, as it was; a source's, below the write."""
    from opentelemetry import trace

    array, values = filled(Spy())
    for _ in stream_chunks(array):
        assert not trace.get_current_span().get_span_context().is_valid

    def source() -> Any:
        seen_now.append(trace.get_current_span().get_span_context().span_id)
        yield (0, 0), values[:5, :4]

    seen_now: list[int] = []
    write_stream(array, source())
    assert seen_now == [seen.spans("zarrstream.stream")[-1].context.span_id]
    assert not trace.get_current_span().get_span_context().is_valid
