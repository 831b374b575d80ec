"""The spans of a stream: one for the pass, one for each chunk below it, wherever the work is done."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from tests.sight.streams import note_parent, of_chunks, run
from tests.streaming.spies import AsyncSpy, Spy, filled
from zarrstream import (
    aio,
    stream_chunks,
    stream_slices,
    telemetry,
    write_stream,
)
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.mapping import MappingStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sight.conftest import Seen

STORES: dict[str, Callable[[Path], Any]] = {
    "threads": lambda _: Spy(),
    "loop": lambda _: AsyncSpy(),
    "files": LocalStore,
    "sqlite": lambda folder: MappingStore(SQLiteMapping(folder / "x.db")),
}
SHAPES: dict[str, dict[str, Any]] = {
    "chunks": {},
    "shards": {"shards": (10, 12)},
    "format 2": {"zarr_format": 2},
    "no compression": {"compressors": None},
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A store of each kind."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


async def read_all(array: Any) -> list[Any]:
    """Stream an array on a loop of its own."""
    return [chunk async for chunk in aio.stream_chunks(array)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_read_chunk_has_a_span_below_the_stream(seen: Seen, store: Any, shape: str, face: str) -> None:
    """Across threads and loops: index, key, encoded and decoded bytes, both durations; the caller's span is above."""
    array, values = filled(store, **SHAPES[shape])
    with telemetry.sight().tracer.start_as_current_span("caller") as caller:  # type: ignore[union-attr]
        chunks = list(stream_chunks(array)) if face == "sync" else asyncio.run(read_all(array))
    stream, found = seen.span("zarrstream.stream"), of_chunks(seen, "read")
    assert stream.parent.span_id == caller.get_span_context().span_id
    assert found.keys() == {chunk.index for chunk in chunks}
    stored = 0
    for chunk in chunks:
        about = dict(found[chunk.index].attributes)
        key = about["zarrstream.chunk.key"]
        size = asyncio.run(store.getsize(key))
        assert about["zarrstream.chunk.stored_bytes"] <= size
        assert shape == "shards" or about["zarrstream.chunk.stored_bytes"] == size
        assert about["zarrstream.chunk.decoded_bytes"] == chunk.data.nbytes
        assert about["zarrstream.chunk.missing"] is False
        assert about["zarrstream.chunk.fetch.duration"] > 0
        assert about["zarrstream.chunk.decode.duration"] > 0
        assert "zarrstream.attempts" not in about
        stored += about["zarrstream.chunk.stored_bytes"]
    assert stream.attributes["zarrstream.stream.kind"] == "chunks"
    assert stream.attributes["zarrstream.stream.outcome"] == "completed"
    assert stream.attributes["zarrstream.stream.chunks"] == len(chunks) == 12
    assert stream.attributes["zarrstream.stream.decoded_bytes"] == values.nbytes
    assert stream.attributes["zarrstream.stream.stored_bytes"] == stored


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_written_chunk_has_a_span_below_the_stream(seen: Seen, store: Any, shape: str, face: str) -> None:
    """Across threads and loops: index, key, bytes, both durations; an elided one says that it is missing."""
    array, values = filled(store, **SHAPES[shape])
    values[:5, :4] = array.fill_value
    items = [
        ((row, column), values[row * 5 : row * 5 + 5, column * 4 : column * 4 + 4])
        for row in range(4)
        for column in range(3)
    ]
    with telemetry.sight().tracer.start_as_current_span("caller") as caller:  # type: ignore[union-attr]
        if face == "sync":
            write_stream(array, items)
        else:
            asyncio.run(aio.write_stream(array, items))
    stream, found = seen.span("zarrstream.stream"), of_chunks(seen, "write")
    assert stream.parent.span_id == caller.get_span_context().span_id
    assert found.keys() == {index for index, _ in items}
    for index, span in found.items():
        about = dict(span.attributes)
        assert about["zarrstream.chunk.missing"] is (index == (0, 0))
        assert about["zarrstream.chunk.decoded_bytes"] == 80
        assert about["zarrstream.chunk.encode.duration"] > 0
        assert about["zarrstream.chunk.store.duration"] > 0
        if index != (0, 0) and shape != "shards":
            assert about["zarrstream.chunk.stored_bytes"] == asyncio.run(store.getsize(about["zarrstream.chunk.key"]))
    assert stream.attributes["zarrstream.stream.kind"] == "write"
    assert stream.attributes["zarrstream.stream.chunks"] == 12
    np.testing.assert_array_equal(array[...], values)


@pytest.mark.parametrize("way", ["read", "write"])
def test_an_array_that_zarr_reads_has_spans_too(seen: Seen, way: str) -> None:
    """Where another pipeline does the work, a chunk's span is there without its parts, and above zarr's requests."""
    with zarr.config.set({"codec_pipeline.path": "tests.sight.test_stream_spans.Pipeline"}):
        zarr.registry.register_pipeline(Pipeline)
        store = AsyncSpy()
        array, values = filled(store)
        store.hook = note_parent(parents := {})
        if way == "read":
            assert sum(chunk.data.sum() for chunk in stream_chunks(array)) == values.sum()
        else:
            write_stream(array, [((0, 0), values[:5, :4] + 1)])
    found = of_chunks(seen, way)
    assert len(found) == (12 if way == "read" else 1)
    assert not [name for span in found.values() for name in span.attributes if name.endswith(".duration")]
    keys = {span.attributes["zarrstream.chunk.key"]: span.context.span_id for span in found.values()}
    assert {key: parents[key] for key in keys} == keys


class Pipeline(zarr.core.codec_pipeline.BatchedCodecPipeline):
    """Not zarr's own."""


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("way", ["read", "write"])
def test_a_request_for_one_chunk_is_below_that_chunk(seen: Seen, kind: type, way: str) -> None:
    """Spans of a store, or of its client, are children of the chunk that they serve, in threads and on loops."""
    store = kind()
    array, values = filled(store)
    parents: dict[str, int] = {}
    awaited = note_parent(parents)
    store.hook = awaited if kind is AsyncSpy else lambda _, key: asyncio.run(awaited("", key))
    run(way, array, values)
    found = of_chunks(seen, way)
    assert parents == {span.attributes["zarrstream.chunk.key"]: span.context.span_id for span in found.values()}


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
def test_a_request_for_several_chunks_is_below_the_stream(seen: Seen, kind: type) -> None:
    """A shard that is fetched whole serves all of its chunks."""
    store = kind()
    array, _ = filled(store, shards=(20, 12))
    parents: dict[str, int] = {}
    awaited = note_parent(parents)
    store.hook = awaited if kind is AsyncSpy else lambda _, key: asyncio.run(awaited("", key))
    list(stream_chunks(array))
    assert set(parents.values()) == {seen.span("zarrstream.stream").context.span_id}


def test_slices_are_a_stream_of_chunks(seen: Seen) -> None:
    """Each chunk has one span, whatever the slices; the stream says what it is."""
    array, _ = filled(Spy())
    assert len(list(stream_slices(array, thickness=3))) == 7
    assert len(of_chunks(seen, "read")) == 12
    assert seen.span("zarrstream.stream").attributes["zarrstream.stream.kind"] == "slices"


def test_each_pass_is_a_stream(seen: Seen) -> None:
    """A stream that is run through twice has two spans."""
    stream = stream_chunks(filled(Spy())[0])
    assert len(list(stream)) == len(list(stream)) == 12
    assert len(seen.spans("zarrstream.stream")) == 2


def test_a_missing_chunk_is_no_error(seen: Seen) -> None:
    """It says that it is missing, and nothing failed."""
    array = zarr.create_array(Spy(), shape=(4,), chunks=(2,), dtype="i4")
    array[2:] = 1
    list(stream_chunks(array))
    found = of_chunks(seen, "read")
    assert [found[index,].attributes["zarrstream.chunk.missing"] for index in (0, 1)] == [True, False]
    assert all(span.status.is_unset and not span.events for span in seen.spans())
    assert seen.total("zarrstream.chunk.duration") == 2


def test_what_a_source_reads_is_below_the_write(seen: Seen) -> None:
    """A copy is one trace: the reading stream is a child of the writing one."""
    array, values = filled(Spy())
    target = zarr.create_array(Spy(), shape=values.shape, chunks=(5, 4), dtype="i4")
    write_stream(target, stream_chunks(array))
    read, write = seen.spans("zarrstream.stream")
    assert read.attributes["zarrstream.stream.kind"] == "chunks"
    assert read.parent.span_id == write.context.span_id


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
def test_what_a_store_notes_is_on_its_chunk(seen: Seen, kind: type) -> None:
    """A store's own retries are attempts of the chunk, and a cache's answer is its hit; neither is a failure."""
    store = kind()
    array, _ = filled(store)

    def note(_: str, key: str) -> None:
        if key == "c/1/1":
            telemetry.retried("get", "memory")
            telemetry.retried("get", "memory")
        telemetry.cache_asked(key == "c/2/2")

    async def note_awaited(operation: str, key: str) -> None:
        note(operation, key)

    store.hook = note if kind is Spy else note_awaited
    list(stream_chunks(array))
    found = of_chunks(seen, "read")
    assert {index: span.attributes.get("zarrstream.attempts") for index, span in found.items()} == {
        index: 3 if index == (1, 1) else None for index in found
    }
    assert {index for index, span in found.items() if span.attributes["zarrstream.cache.hit"]} == {(2, 2)}
    assert seen.total("zarrstream.retries") == 2
    assert seen.total("zarrstream.cache.requests") == 12


def test_trace_chunks_off_leaves_the_stream(seen: Seen) -> None:
    """With `zarrstream.trace_chunks` off a million chunks are one span, and all of the metrics."""
    array, _ = filled(Spy())
    with zarr.config.set({"zarrstream.trace_chunks": False}):
        list(stream_chunks(array))
    assert [span.name for span in seen.spans()] == ["zarrstream.stream"]
    assert seen.span("zarrstream.stream").attributes["zarrstream.stream.chunks"] == 12
    assert seen.total("zarrstream.chunk.duration") == 12


def test_the_environment_turns_chunks_off() -> None:
    """`ZARR_ZARRSTREAM__TRACE_CHUNKS` is zarr's way to say so from outside."""
    program = "import zarr; assert zarr.config.get('zarrstream.trace_chunks') is False"
    environment = {**os.environ, "ZARR_ZARRSTREAM__TRACE_CHUNKS": "False"}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0


def test_a_sampler_that_drops_leaves_the_metrics(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sampler of the application does not want is no span; the metrics stay."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    monkeypatch.setattr(trace.get_tracer_provider(), "sampler", ALWAYS_OFF)
    array, _ = filled(Spy())
    list(stream_chunks(array))
    assert seen.spans() == []
    assert seen.total("zarrstream.chunk.duration") == 12
