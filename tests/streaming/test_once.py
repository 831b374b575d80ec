"""Each stored object is fetched once and decoded once in a pass, whatever is asked of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from zarr.codecs import ZstdCodec

from tests.streaming.spies import AsyncSpy, Spy, filled
from zarrstream import stream_chunks, stream_slices

STORES = [Spy, AsyncSpy]
decoded: Counter[bytes] = Counter()


class Counting(ZstdCodec):
    """A codec that counts how often each chunk's bytes are decoded."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        decoded[chunk_bytes.to_bytes()] += 1
        return super()._decode_sync(chunk_bytes, chunk_spec)


@pytest.fixture
def decodings() -> Counter[bytes]:
    """How often each chunk's bytes went through the decoder."""
    decoded.clear()
    return decoded


@pytest.mark.parametrize("store", STORES)
def test_thin_slices_through_thick_chunks(store: type, decodings: Counter[bytes]) -> None:
    """Slices of thickness 1 through chunks of thickness 50: one fetch and one decoding for each chunk."""
    array, values = filled(store(), shape=(120, 6), chunks=(50, 3), compressors=Counting())
    decodings.clear()
    for found in stream_slices(array):
        assert (found.data == values[found.region]).all()
    assert set(array.store.seen("get").values()) == {1}
    assert len(array.store.seen("get")) == 6 == len(decodings)
    assert set(decodings.values()) == {1}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("thickness", [1, 3, 7])
def test_slices_of_shards(store: type, thickness: int, decodings: Counter[bytes]) -> None:
    """Shards that fit are fetched whole, once, for all slices that cross them."""
    array, values = filled(store(), shape=(16, 8), chunks=(2, 2), shards=(8, 4), compressors=Counting())
    decodings.clear()
    for found in stream_slices(array, thickness=thickness):
        assert (found.data == values[found.region]).all()
    assert array.store.seen("get") == {f"c/{i}/{j}": 1 for i in (0, 1) for j in (0, 1)}
    assert len(decodings) == 32
    assert set(decodings.values()) == {1}


@pytest.mark.parametrize("store", STORES)
def test_whole_shards_are_one_fetch(store: type) -> None:
    """A shard that is mostly wanted is one request."""
    array, _ = filled(store(), shape=(16, 8), chunks=(2, 2), shards=(8, 4))
    list(stream_chunks(array))
    assert set(array.store.seen("get").values()) == {1}
    array.store.calls.clear()
    list(stream_chunks(array, region=(slice(0, 6),)))
    assert set(array.store.seen("get").values()) == {1}


@pytest.mark.parametrize("store", STORES)
def test_a_few_inner_chunks_are_ranges(store: type) -> None:
    """Of a shard that is hardly wanted, the index is fetched once, and the wanted ranges."""
    array, values = filled(store(), shape=(16, 8), chunks=(2, 2), shards=(16, 8))
    [chunk] = stream_chunks(array, filter=lambda index: index == (3, 3))
    assert (chunk.data == values[chunk.region]).all()
    assert array.store.seen("get") == {"c/0/0": 2}


@pytest.mark.parametrize("store", STORES)
def test_shards_over_budget_read_each_chunk_once(store: type, decodings: Counter[bytes]) -> None:
    """A shard that does not fit is read in runs: each chunk's bytes once, its index with each run."""
    array, values = filled(store(), shape=(64, 64), chunks=(8, 8), shards=(64, 64), compressors=Counting())
    ranges: list[tuple[int, int]] = []
    size = len(array.store._store_dict["c/0/0"].to_bytes())
    original = type(array.store).get_sync if store is Spy else type(array.store).get

    def record(byte_range: Any) -> None:
        start = size - byte_range.suffix if hasattr(byte_range, "suffix") else byte_range.start
        ranges.append((start, getattr(byte_range, "end", size)))

    if store is Spy:

        def get_sync(self: Any, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
            record(byte_range)
            return original(self, key, prototype=prototype, byte_range=byte_range)

        array.store.__class__ = type("Ranged", (Spy,), {"get_sync": get_sync, "get": Spy.get})
    else:

        async def get(self: Any, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            record(byte_range)
            return await original(self, key, prototype, byte_range)

        array.store.__class__ = type("Ranged", (AsyncSpy,), {"get": get})
    decodings.clear()
    out = np.zeros_like(values)
    for chunk in stream_chunks(array, max_bytes=1024):
        out[chunk.region] = chunk.data
    assert (out == values).all()
    assert set(decodings.values()) == {1}
    ranges.sort()
    pieces = [found for found in ranges if found != ranges[-1]]
    assert all(before[1] <= after[0] for before, after in pairwise(pieces))
    assert len(pieces) >= ranges.count(ranges[-1]) > 4
