"""A listing that fails on its way is whole in the end, whatever its order: each name is told once."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from tests.clouds import CloudBucket, CloudRow, every_cloud
from tests.fault_proxy import FaultProxy
from tests.optional import require
from tests.values import buffer
from zarrstream import ResilientStore, Retry
from zarrstream.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

require("tenacity")
#: In the order of a service, which lists "foo-bar/" before "foo/".
NAMES = ["a", "b-", "b", "c", "foo-bar", "foo", "z"]
QUICK = Retry(attempts=3, base=0.001, cap=0.01)


async def listed(names: Any) -> list[str]:
    return [name async for name in names]


class Failing(MemoryStore):
    """A store that lists in any order, and fails behind some names, once each."""

    def __init__(self, names: list[str], fails: list[int]) -> None:
        super().__init__()
        self.names, self.fails = names, list(fails)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # zarr's signature
        """Yield the names, up to where it fails."""
        stop = self.fails.pop(0) if self.fails else None
        for name in self.names[:stop]:
            yield name
        if stop is not None:
            error = StoreUnavailableError("a moment's failure")
            error.passes = True
            raise error

    list_prefix = list_dir


@given(names=st.permutations(NAMES), fails=st.lists(st.integers(0, len(NAMES)), max_size=2))
def test_a_listing_in_any_order_that_fails_tells_every_name_once(names: list[str], fails: list[int]) -> None:
    """The names of a level come as the service sorts them, with a slash behind; keys come in any order."""

    async def work() -> None:
        assert await listed(ResilientStore(Failing(names, fails), retry=QUICK).list_dir("")) == names
        assert await listed(ResilientStore(Failing(names, fails), retry=QUICK).list_prefix("")) == names

    asyncio.run(work())


def small_pages(cloud: CloudRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a service's pages hold two names."""
    if cloud.scheme == "gs":
        from zarrstream.stores.buckets.gcs import GCSBucket

        monkeypatch.setattr(GCSBucket, "_page", partialmethod(GCSBucket._page, maxResults=2))
    elif cloud.driver == "s3fs":
        from zarrstream.stores.buckets.s3 import S3Bucket

        monkeypatch.setattr(S3Bucket, "_page", partialmethod(S3Bucket._page, MaxKeys=2))
    elif cloud.scheme == "az":
        from azure.storage.blob.aio import ContainerClient

        for name in ("list_blobs", "walk_blobs"):
            monkeypatch.setattr(
                ContainerClient, name, partialmethod(getattr(ContainerClient, name), results_per_page=2)
            )


@every_cloud
def test_a_page_that_fails_loses_no_child_and_no_key(
    bucket: CloudBucket, cloud: CloudRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever page it is, every member of a group is there, and every key."""
    small_pages(cloud, monkeypatch)
    document = buffer(b'{"zarr_format": 2}')

    async def work(proxy: FaultProxy) -> None:
        direct = bucket.open("members" + cloud.name)
        await asyncio.gather(
            *(direct.set(f"{path}.zgroup", document) for path in ("", *(f"{name}/" for name in NAMES)))
        )
        store = bucket.open("members" + cloud.name, port=proxy.port, retry=QUICK)
        keys = sorted([".zgroup", *(f"{name}/.zgroup" for name in NAMES)])
        for number in range(5):
            proxy.skip, proxy.times = number, proxy.met.total() + 1
            names = store.list_prefix("") if number % 2 else store.list_dir("")
            assert sorted(await listed(names)) == (keys if number % 2 else sorted([".zgroup", *NAMES])), number
        proxy.skip, proxy.times = 1, proxy.met.total() + 1
        assert await store.getsize_prefix("") == len(keys) * len(document)
        assert proxy.met
        proxy.times = 0
        group = await zarr.api.asynchronous.open_group(store, mode="r", zarr_format=2, use_consolidated=False)
        proxy.skip, proxy.times = 2, proxy.met.total() + 1
        assert sorted([name async for name, _ in group.members()]) == sorted(NAMES)

    with FaultProxy(bucket.port, [503], methods="GET", times=0) as proxy:
        asyncio.run(work(proxy))


@every_cloud
@pytest.mark.parametrize("prefix", ["/", "/b", "none/"])
async def test_nothing_is_below_a_prefix_that_no_key_has(bucket: CloudBucket, prefix: str) -> None:
    """A listing of nothing is none and no error, also where the client takes no such name."""
    store = bucket.open()
    await store.set("b/c", buffer(b"1"))
    assert [key async for key in store.list_prefix(prefix)] == []
    assert [name async for name in store.list_dir("none/of/them")] == []
    store.close()
