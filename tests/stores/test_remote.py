"""Every cloud's client on its real server keeps zarr's laws, and its store is there for every loop and process."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from hypothesis import settings
from zarr.core.buffer import cpu
from zarr.testing.store import StoreTests

from tests.clouds import CloudBucket, every_cloud
from tests.processes import METHODS, run
from tests.values import PROTOTYPE, buffer
from zarrstream import stream_chunks
from zarrstream.errors import StoreError, StoreUnavailableError
from zarrstream.stores.buckets.store import RemoteStore
from zarrstream.testing import AWKWARD_KEYS, LONG_KEY, ODD_RANGES, check_hierarchy_machine, check_store_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.abc.store import Store


@pytest.fixture
def store(bucket: CloudBucket) -> Iterator[Store]:
    """A store in which nothing is, and which is closed afterwards."""
    made = bucket.open()
    yield made
    made.close()


@every_cloud
class TestEveryCloud(StoreTests[RemoteStore, cpu.Buffer]):
    """zarr's own laws."""

    # Its stores are awaited: zarr's laws of synchronous methods are not about them.
    test_get_sync = test_get_sync_missing = test_set_sync = test_delete_sync = test_delete_sync_missing = None
    test_sync_async_set_get_parity = test_get_sync_byte_range_parity = test_delete_sync_visible_to_async_get = None
    store_cls = RemoteStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, bucket: CloudBucket) -> dict[str, Any]:
        made: Any = bucket.open(retry=None, max_concurrency=None)
        return {"place": made._place, "read_only": False}

    @pytest.fixture
    async def store(self, store_kwargs: dict[str, Any]) -> Any:
        made = await RemoteStore.open(**store_kwargs)
        yield made
        made.close()

    async def set(self, store: RemoteStore, key: str, value: cpu.Buffer) -> None:  # type: ignore[override]
        session = await store._session()
        await session.bucket.put(store._place.name(key), value.to_bytes())

    async def get(self, store: RemoteStore, key: str) -> cpu.Buffer:
        session = await store._session()
        return buffer(bytes(await session.bucket.get(store._place.name(key))))

    def test_store_repr(self, store: RemoteStore) -> None:
        assert repr(store) == f"RemoteStore({store.place!r})"
        assert str(store) == store.place

    def test_store_supports_writes(self, store: RemoteStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: RemoteStore) -> None:
        assert store.supports_listing


@every_cloud
@pytest.mark.slow
def test_single_keys_behave_as_in_a_dict(store: Store) -> None:
    check_store_machine(store, examples=settings().max_examples // 4, steps=20)


@every_cloud
@pytest.mark.slow
def test_hierarchies_behave_as_in_memory(store: Store) -> None:
    check_hierarchy_machine(store, examples=max(2, settings().max_examples // 12), steps=12)


@every_cloud
def test_odd_ranges(store: Store) -> None:
    """Suffixes longer than the value, ranges past its end, of no length, and of the empty value."""

    async def work() -> None:
        for value in (b"", b"0123456789"):
            await store.set("k", buffer(value))
            for request, bounds in ODD_RANGES:
                found = await store.get("k", PROTOTYPE, request)
                assert found is not None
                assert found.to_bytes() == value[bounds], (value, request)
                assert await store.get("absent", PROTOTYPE, request) is None

    asyncio.run(work())


@every_cloud
def test_awkward_keys_stay_apart(bucket: CloudBucket, cloud: Any) -> None:
    """Each key has its own value, a prefix takes its own keys alone, and the whole is listed."""
    # MinIO lists nothing beneath a key that is a prefix of others; to Azure a backslash is a slash.
    odd = {"s3": {"a", "a/b"}, "az": {"back\\slash"}}.get(cloud.scheme, set())
    keys = [*(key for key in AWKWARD_KEYS if key not in odd), LONG_KEY]
    store = bucket.open(f"p{uuid4().hex[:8]}")  # S3 takes 1,024 bytes, prefix and all

    async def work() -> None:
        await asyncio.gather(*(store.set(key, buffer(key.encode())) for key in keys))
        found = {key: await store.get(key, PROTOTYPE) for key in keys}
        assert {key: value and value.to_bytes() for key, value in found.items()} == {key: key.encode() for key in keys}
        assert sorted([key async for key in store.list()]) == sorted(keys)
        for path in ("a[1]", "a_b", "a%b", "foo", "a*b/", "/"):
            await store.delete_dir(path)
        gone = ("a[1]/", "a_b/", "a%b/", "foo/", "a*b/")
        assert sorted([key async for key in store.list()]) == sorted(key for key in keys if not key.startswith(gone))

    asyncio.run(work())
    store.close()


@every_cloud
def test_prefixes_that_are_prefixes_of_each_other_are_apart(bucket: CloudBucket) -> None:
    """``run`` sees nothing of ``run-2``, and takes nothing of it along."""
    name = uuid4().hex
    stores = [bucket.open(f"{name}/{end}") for end in ("run", "run-2", "run/inner")]

    async def work() -> None:
        for number, one in enumerate(stores):
            await one.set("k", buffer(b"%d" % number))
        assert sorted([key async for key in stores[0].list()]) == ["inner/k", "k"]
        assert [key async for key in stores[1].list()] == ["k"]
        await stores[0].clear()
        assert await stores[1].exists("k")
        assert not await stores[2].exists("k")

    asyncio.run(work())
    for one in stores:
        one.close()


@every_cloud
def test_slashes_alone_name_nothing(store: Store) -> None:
    """zarr's own tests ask whether ``/`` is empty; MinIO refuses the very question."""

    async def work() -> None:
        await store.set("a/b", buffer(b"1"))
        assert await store.is_empty("/")
        assert [key async for key in store.list_prefix("/")] == []
        assert not await store.is_empty("")

    asyncio.run(work())


@every_cloud
def test_what_is_closed_amid_requests_stays_closed(store: Store) -> None:
    """zarr raises the first error of several requests and leaves the others: they make no client that nobody closes."""

    async def work() -> None:
        asked = [asyncio.create_task(store.get(f"{key}", PROTOTYPE)) for key in range(40)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        store.close()
        for ended in await asyncio.gather(*asked, return_exceptions=True):
            assert ended is None or isinstance(ended, StoreError), ended
        assert await store.get("later", PROTOTYPE) is None

    for _ in range(3):
        asyncio.run(work())


@every_cloud
@pytest.mark.slow
def test_a_listing_of_more_than_one_page_is_whole(store: Store, cloud: Any) -> None:
    """Services tell 1,000 names a page (Azure 5,000); a removal goes through all pages as well."""
    keys = [f"a/c/{number}" for number in range(5200 if cloud.scheme == "az" else 2200)]

    async def work() -> None:
        for first in range(0, len(keys), 200):
            await asyncio.gather(*(store.set(key, buffer(b"")) for key in keys[first : first + 200]))
        assert sorted([key async for key in store.list_prefix("a/")]) == sorted(keys)
        assert len([name async for name in store.list_dir("a/c")]) == len(keys)
        await store.delete_dir("a")
        assert [key async for key in store.list()] == []

    asyncio.run(work())


@every_cloud
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_of_both_formats_come_back(store: Store, zarr_format: Any) -> None:
    values = np.arange(64 * 48, dtype="f4").reshape(64, 48)
    array = zarr.create_array(store, shape=values.shape, chunks=(16, 16), dtype="f4", name="x", zarr_format=zarr_format)
    array[:] = values
    assert np.array_equal(zarr.open_array(store, path="x", mode="r")[:], values)
    out = np.zeros_like(values)
    for chunk in stream_chunks(array, concurrency=4):
        out[chunk.region] = chunk.data
    assert np.array_equal(out, values)


@every_cloud
def test_one_of_many_creates_a_key(store: Store) -> None:
    """A conditional write has one winner, and no loser is told an error."""

    async def work() -> None:
        await asyncio.gather(*(store.set_if_not_exists("k", buffer(b"%d" % number)) for number in range(16)))
        first = await store.get("k", PROTOTYPE)
        await store.set_if_not_exists("k", buffer(b"later"))
        assert await store.get("k", PROTOTYPE) == first

    asyncio.run(work())


@every_cloud
def test_two_loops_in_turn_and_zarrs_own(store: Store) -> None:
    """Each has a client of its own; the end of one is not the end of the others."""

    async def count() -> int:
        value = await store.get("k", PROTOTYPE)
        return 0 if value is None else len(value)

    asyncio.run(store.set("k", buffer(b"123")))
    zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i4", name="a")[:] = 7
    assert [asyncio.run(count()), asyncio.run(count())] == [3, 3]
    assert zarr.open_array(store, path="a", mode="r")[:].tolist() == [7] * 4


def read_in_child(store: Store) -> None:
    array = zarr.open_array(store, path="a", mode="r+")
    assert array[:2].tolist() == [7] * 2
    array[2:] = 8
    store.close()


@every_cloud
@pytest.mark.parametrize("method", METHODS)
def test_a_store_that_was_used_before_works_in_the_child(store: Store, method: str) -> None:
    zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i4", name="a")[:] = 7
    run(method, read_in_child, [(store,)])
    assert zarr.open_array(store, path="a", mode="r")[:].tolist() == [7, 7, 8, 8]


@every_cloud
def test_it_pickles_and_closes_twice(store: Store) -> None:
    asyncio.run(store.set("k", buffer(b"1")))
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert asyncio.run(copy.exists("k"))
    copy.close()
    store.close()
    store.close()
    assert asyncio.run(store.exists("k"))


@every_cloud
def test_a_lost_bucket_is_an_error_for_every_verb(own_bucket: CloudBucket) -> None:
    """Also for those that remove, list and look: none takes it for an empty one."""
    lost = own_bucket.open("p")
    own_bucket.remove()

    async def names(listing: Any) -> list[str]:
        return [name async for name in listing]

    async def work() -> None:
        calls = (
            lost.get("c/0", PROTOTYPE),
            lost.get("zarr.json", PROTOTYPE),
            lost.exists("zarr.json"),
            lost.getsize("c/0"),
            lost.set("c/0", buffer(b"1")),
            lost.set_if_not_exists("c/0", buffer(b"1")),
            names(lost.list()),
            names(lost.list_dir("")),
            lost.delete("c/0"),
            lost.delete_dir("c"),
            lost.getsize_prefix(""),
        )
        for call in calls:
            with pytest.raises(StoreUnavailableError, match="bucket or container is not there"):
                await call

    asyncio.run(work())
    lost.close()
