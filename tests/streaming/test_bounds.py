"""Memory and concurrency stay within their bounds, whoever is slow."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import zarr

from tests.streaming.spies import AsyncSpy, Spy, eventually, filled
from zarrstream import stream_chunks, stream_slices, write_stream
from zarrstream.errors import SlabTooLargeError
from zarrstream.streaming.engine.window import Window


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows that streams make, with the peak of their decoded bytes."""
    made: list[Window] = []
    submit = Window.submit

    def recorded(self: Window, *args: Any, **kwargs: Any) -> Any:
        if self not in made:
            made.append(self)
            self.peak_bytes = 0
        job = submit(self, *args, **kwargs)
        self.peak_bytes = max(self.peak_bytes, self.nbytes)
        return job

    monkeypatch.setattr(Window, "submit", recorded)
    return made


@pytest.mark.parametrize("store", [Spy, AsyncSpy])
def test_a_slow_consumer_is_not_run_over(store: type, windows: list[Window]) -> None:
    """However slow the consumer, no more than `max_bytes` are decoded ahead of it."""
    array, _ = filled(store(), shape=(4096, 8), chunks=(64, 8), dtype="u1")  # 64 chunks of 512 bytes
    chunks = iter(stream_chunks(array, max_bytes=2048))
    next(chunks)
    assert eventually(lambda: array.store.running == 0)
    assert sum(array.store.seen("get").values()) <= 4
    for _ in chunks:
        pass
    assert windows[0].peak_bytes <= 2048


@pytest.mark.parametrize("store", [Spy, AsyncSpy])
def test_in_flight_never_exceeds_the_limit(store: type) -> None:
    """The peak of calls under way is the concurrency, and no more."""
    array, _ = filled(store(), shape=(64, 8), chunks=(1, 8))
    together = threading.Barrier(3, timeout=10)
    met: list[int] = []

    def meet(*_: object) -> None:
        if not met:
            together.wait()
            met.append(1)

    if store is Spy:
        array.store.hook = meet  # three threads have to be inside at once, or the barrier breaks
    list(stream_chunks(array, concurrency=3))
    assert array.store.peak == 3


def test_a_fast_source_waits_for_room(windows: list[Window]) -> None:
    """A source is pulled only when there is room: a stuck store stops it within the budget."""
    array, _ = filled(Spy(), shape=(4096, 8), chunks=(64, 8), dtype="u1")
    release = threading.Event()
    array.store.hook = lambda operation, _: release.wait(10) if operation == "set" else None
    pulled: list[int] = []

    def source() -> Any:
        for index in range(64):
            pulled.append(index)
            if index > 20:
                pytest.fail("pulled although there was no room")
            yield (index, 0), np.full((64, 8), index + 1, dtype="u1")
            if index == 20:
                return

    writer = threading.Thread(target=lambda: write_stream(array, source(), max_bytes=2048))
    writer.start()
    assert eventually(lambda: array.store.running > 0)
    assert not eventually(lambda: len(pulled) > 5, seconds=0.2)
    release.set()
    writer.join(10)
    assert len(pulled) == 21
    assert windows[0].peak_bytes <= 2048


def test_one_unit_over_the_budget_still_streams() -> None:
    """A chunk larger than `max_bytes` is streamed, one at a time."""
    array, values = filled(Spy())
    out = np.zeros_like(values)
    for chunk in stream_chunks(array, max_bytes=1):
        out[chunk.region] = chunk.data
    assert (out == values).all()
    assert array.store.peak == 1


def test_slab_too_large_is_refused_before_reading() -> None:
    """A slab over the budget names its size and the ways out, and nothing is read."""
    array, _ = filled(Spy(), shape=(100, 100), chunks=(10, 10))
    with pytest.raises(SlabTooLargeError, match=r"4,000 bytes.*max_bytes.*region.*axis.*re-chunk"):
        list(stream_slices(array, max_bytes=3999))
    assert not array.store.calls
    assert len(list(stream_slices(array, max_bytes=4000))) == 100
    with pytest.raises(SlabTooLargeError):
        stream_slices(array, max_bytes=4000, thickness=2, start=9)  # crosses two rows of chunks


@pytest.mark.parametrize("store", [Spy, AsyncSpy])
def test_shards_cut_by_bands_are_read_once(store: type) -> None:
    """Where a row of shards does not fit, each is read in rows of chunks: each range once, its index with each row."""
    array, values = filled(store(), shape=(8, 64), chunks=(1, 64), shards=(8, 64), compressors=None)
    for found in stream_slices(array, max_bytes=600):
        assert (found.data == values[found.region]).all()
    assert array.store.seen("get") == {"c/0/0": 16}


def test_ten_million_chunks_begin_at_once() -> None:
    """The chunk list is never made: first chunk, length and region of a huge array cost nothing."""
    array = zarr.create_array({}, shape=(10_000, 10_000, 100), chunks=(10, 10, 10), dtype="i1", fill_value=3)
    stream = stream_chunks(array)
    assert len(stream) == 10_000_000
    chunks = iter(stream)
    assert next(chunks).index == (0, 0, 0)
    chunks.close()
