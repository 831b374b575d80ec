"""A shard that is replaced between the reading of its index and that of its chunks: its values are old or new."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from tests.backends import Row, every_row, opened
from tests.clouds import CloudBucket, every_cloud
from tests.values import buffer
from zarrstream import CachedStore, ChunkCache, MappingStore, TracedStore, aio, stream_chunks
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.buckets.store import RemoteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from pathlib import Path

OLD, NEW = np.repeat([1, 2, 3, 4], 4), np.repeat([0, 20, 30, 40], 4)
FACES = ["sync", "aio"]


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MutableMapping[str, bytes]]:
    yield from opened(row, tmp_path, request)


def written(store: Any) -> bytes:
    """Write an array of one shard, and return another version of that, in which the first chunk is empty."""
    found = []
    for name, values in (("new", NEW), ("t", OLD)):
        array = zarr.create_array(
            store, name=name, shape=(16,), chunks=(4,), shards=(16,), dtype="i4", compressors=None, fill_value=0
        )
        array[:] = values
        found.append(array)
    raw: Any = sync(store.get("new/c/0"))
    assert len(raw) < len(sync(store.get("t/c/0")))
    return bytes(raw.to_bytes())


def second(store: Any, face: str) -> list[int]:
    """Read the second chunk."""
    array = zarr.open_array(store, path="t", mode="r")

    async def awaited() -> list[Any]:
        return [chunk async for chunk in aio.stream_chunks(array, region=np.s_[4:8])]

    [chunk] = asyncio.run(awaited()) if face == "aio" else list(stream_chunks(array, region=np.s_[4:8]))
    return list(chunk.data.tolist())


def swapping(monkeypatch: pytest.MonkeyPatch, owner: type, swap: Callable[[], None]) -> list[str]:
    """Replace the shard as soon as something of it was read; return the keys that were."""
    read, keys = owner.read, []  # type: ignore[attr-defined]

    def read_and_swap(self: Any, key: str, *span: Any) -> Any:
        value = read(self, key, *span)
        if key == "t/c/0":
            keys.append(key)
            if len(keys) == 1:
                swap()
        return value

    monkeypatch.setattr(owner, "read", read_and_swap)
    return keys


@every_row
@pytest.mark.parametrize("face", FACES)
def test_a_shard_replaced_amid_its_reading_is_old_or_new(
    mapping: MutableMapping[str, bytes], face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every mapping: the index is not believed of another version's bytes."""
    store = MappingStore(mapping)
    new = written(store)
    keys = swapping(monkeypatch, type(store._bytes), lambda: store.set_sync("t/c/0", buffer(new)))
    assert second(store, face) in ([2] * 4, [20] * 4)
    assert len(keys) >= 3
    assert second(store, face) == [20] * 4
    store.close()


def _plain(store: Any, _: Path) -> Any:
    return store


def _traced(store: Any, _: Path) -> Any:
    return TracedStore(store)


def _cached(store: Any, folder: Path) -> Any:
    return CachedStore(store, ChunkCache(SQLiteMapping(folder / "cache.db")))


@every_cloud
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("wrapped", [_plain, _traced, _cached])
def test_an_object_replaced_amid_its_reading_is_old_or_new(
    bucket: CloudBucket, face: str, wrapped: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In every bucket, through every wrapper; what tells the versions apart costs no request."""
    store = wrapped(bucket.open(), tmp_path)
    new = written(store)
    ranged, asked = RemoteStore._ranged, []

    async def ranged_and_swapped(self: Any, there: Any, key: str, start: int, stop: int | None) -> Any:
        value = await ranged(self, there, key, start, stop)
        if key == "t/c/0":
            asked.append((start, stop))
            if len(asked) == 1:
                await store.set("t/c/0", buffer(new))
        return value

    monkeypatch.setattr(RemoteStore, "_ranged", ranged_and_swapped)
    assert second(store, face) in ([2] * 4, [20] * 4)
    asked[:] = [(0, None)]
    store.close()
    if wrapped is not _cached:
        assert second(store, face) == [20] * 4
        assert len(asked) == 3  # an index and a range
    store.close()
