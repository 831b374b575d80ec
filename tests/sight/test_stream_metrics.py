"""The metrics of a stream: what they count, who waits for whom, and that their number stays."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from tests.streaming.spies import AsyncSpy, Spy, eventually, filled
from zarrstream import aio, signals, stream_chunks, write_stream
from zarrstream.streaming.codecs.array import ArrayCodec
from zarrstream.streaming.engine.observer import UNWATCHED, observer_of
from zarrstream.streaming.engine.window import Inbox, Window
from zarrstream.streaming.reading.decode import Decoder
from zarrstream.streaming.transport.files import FileTransport
from zarrstream.streaming.transport.stores import LoopTransport

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sight.conftest import Seen


def test_where_nobody_listens_the_parts_are_the_plain_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a provider a stream runs as if there were no telemetry: nothing of it is called for a chunk."""
    array, _ = filled(LocalStore(tmp_path))
    assert observer_of(ArrayCodec(array), "chunks") is UNWATCHED
    passes: list[Any] = []

    def close(window: Window) -> None:
        passes.append(window)

    monkeypatch.setattr(Window, "close", close)
    write_stream(array, stream_chunks(array))
    assert {type(window) for window in passes} == {Window}
    assert {type(window.inbox) for window in passes} == {Inbox}
    lines = [window._crew._line for window in passes]
    loader, saver = lines[0].work.__self__, lines[1].work.__self__
    assert (type(loader._decoder), type(loader._port), type(loader._awaited)) == (Decoder, FileTransport, LoopTransport)
    assert (type(saver._codec), type(saver._port), type(saver._awaited)) == (ArrayCodec, FileTransport, LoopTransport)
    for window in passes:
        window._crew.dismiss(())
        window._crew.join(1)


@pytest.mark.parametrize("kind", [Spy, AsyncSpy])
@pytest.mark.parametrize("options", [{}, {"shards": (10, 12)}], ids=["chunks", "shards"])
def test_what_a_stream_did_is_counted(seen: Seen, kind: type, options: dict[str, Any]) -> None:
    """Chunks, encoded bytes both ways, and each stage by itself; at the end nothing is in flight."""
    array, values = filled(kind(), **options)
    target = zarr.create_array(kind(), shape=values.shape, chunks=(5, 4), dtype="i4", **options)
    write_stream(target, stream_chunks(array))
    for direction, stages in (("read", ("fetch", "decode")), ("write", ("encode", "store"))):
        assert seen.total(signals.CHUNK_DURATION, io_direction=direction) == 12
        assert seen.total(signals.CHUNK_IO, io_direction=direction) == sum(
            span.attributes["zarrstream.chunk.stored_bytes"] for span in seen.spans(f"zarrstream.chunk.{direction}")
        )
        for stage in stages:
            assert seen.total(signals.STAGE_DURATION, io_direction=direction, chunk_stage=stage) == 12
        assert seen.total(signals.IN_FLIGHT, io_direction=direction) == 0
        assert seen.total(signals.BUFFER_USAGE, io_direction=direction) == 0
    assert seen.total(signals.LAG) == 0


def test_what_is_in_flight_is_seen(seen: Seen) -> None:
    """While a consumer has the first chunk, those ahead of it and their decoded bytes are counted, and no more."""
    array, values = filled(AsyncSpy(), shape=(400, 4), chunks=(1, 4))
    items = iter(stream_chunks(array, concurrency=2, max_bytes=20 * 16))
    next(items)
    ahead = seen.total(signals.IN_FLIGHT, io_direction="read")
    assert 0 < ahead <= 20
    assert seen.total(signals.BUFFER_USAGE) == ahead * 16 <= 20 * 16
    items.close()
    assert seen.total(signals.IN_FLIGHT) == seen.total(signals.BUFFER_USAGE) == 0
    assert values.nbytes == 400 * 16


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_slow_store_lets_the_caller_wait(seen: Seen, face: str) -> None:
    """What the consumer waited for the stream is at least what the store held back; the stream waited for nobody."""
    store, held = Spy(), threading.Event()
    array, _ = filled(store)
    store.hook = lambda *_: held.wait(10)

    def release() -> None:
        eventually(lambda: store.running)
        threading.Event().wait(0.05)  # what the consumer has to wait, at least
        held.set()

    async def read_all() -> int:
        return len([chunk async for chunk in aio.stream_chunks(array)])

    releaser = threading.Thread(target=release)
    releaser.start()
    assert (len(list(stream_chunks(array))) if face == "sync" else asyncio.run(read_all())) == 12
    releaser.join()
    assert seen.waited("caller") > 0.04
    assert seen.waited("stream") < 0.04
    [longest, *_] = sorted(span.start_time - span.end_time for span in seen.spans(signals.WAIT))
    assert -longest / 1e9 > 0.04


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_slow_consumer_lets_the_stream_wait(seen: Seen, face: str) -> None:
    """What the workers waited for the consumer is at least what it took after they had done all they may."""
    array, _ = filled(Spy(), shape=(400, 4), chunks=(1, 4))
    options: Any = {"concurrency": 1, "max_bytes": 64}

    def linger() -> None:
        assert eventually(
            lambda: seen.total(signals.CHUNK_DURATION) == seen.total(signals.IN_FLIGHT)
        )  # none is under way
        threading.Event().wait(0.05)

    async def read_all() -> None:
        async for chunk in aio.stream_chunks(array, **options):
            if chunk.index == (0, 0):
                linger()

    if face == "aio":
        asyncio.run(read_all())
    else:
        for chunk in stream_chunks(array, **options):
            if chunk.index == (0, 0):
                linger()
    assert seen.waited("stream") > 0.04


def test_a_slow_source_lets_the_stream_wait(seen: Seen) -> None:
    """Writing: what the workers waited for the source; and a store that is slow lets the source wait."""
    array, values = filled(Spy())

    def source() -> Any:
        yield (0, 0), values[:5, :4]
        assert eventually(lambda: seen.total(signals.CHUNK_DURATION) == 1)
        threading.Event().wait(0.05)
        yield (1, 0), values[5:10, :4]

    write_stream(array, source())
    assert seen.waited("stream") > 0.04


def test_the_lag_of_a_writer_is_what_it_pulled_and_has_not_stored(seen: Seen) -> None:
    """A source sees how far the store is behind; it is bounded, and nothing at the end."""
    store, gate = Spy(), threading.Event()
    array = zarr.create_array(store, shape=(64,), chunks=(1,), dtype="i4")
    store.hook = lambda *_: gate.wait(10)
    lags = []

    def source() -> Any:
        for number in range(64):
            lags.append(seen.total(signals.LAG))
            if number == 3:
                gate.set()
            yield (number,), np.ones(1, "i4")

    write_stream(array, source(), concurrency=1, max_bytes=16)
    assert lags[:4] == [0, 1, 2, 3]
    assert max(lags) <= 4 + 1
    assert seen.total(signals.LAG) == 0


def test_more_chunks_make_no_more_metrics(seen: Seen) -> None:
    """From 10 to 10,000 chunks the metrics and their attributes are the same ones."""
    kept: list[set[Any]] = []
    with zarr.config.set({"zarrstream.trace_chunks": False}):
        for count in (10, 10_000):
            array = zarr.create_array(Spy(), shape=(count,), chunks=(1,), dtype="i4", compressors=None)
            write_stream(array, (((number,), np.ones(1, "i4")) for number in range(count)))
            assert sum(1 for _ in stream_chunks(array)) == count
            kept.append({(name, point) for name in seen.metrics() for point in seen.points(name)})
    assert seen.total(signals.CHUNK_DURATION) == 2 * 10_010
    assert len(seen.spans()) == 4
    # A wait may be seen for the first time in the longer one, but it is one of two.
    late = {name for name, _ in kept[1] - kept[0]}
    assert late <= {signals.BACKPRESSURE}
    assert len(seen.points(signals.BACKPRESSURE)) <= 4
