"""Verbs of many requests: each request has its own attempts, time and place at the limit; none follows a failure."""

from __future__ import annotations

import asyncio
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import pytest
from zarr.storage import MemoryStore

from tests.clouds import CloudBucket, every_cloud, s3_client
from tests.fault_proxy import FaultProxy
from tests.optional import require
from tests.values import buffer
from zarrstream import ResilientStore, Retry
from zarrstream.errors import StoreAccessError, StoreError, StoreTimeoutError
from zarrstream.stores.wrappers import resilient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

require("tenacity")
KEYS = [f"x/c/{number}" for number in range(7)]


async def fill(store: Any, keys: list[str]) -> None:
    await asyncio.gather(*(store.set(key, buffer(b"1")) for key in keys))


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the services tell two names at a time."""
    from zarrstream.stores.buckets import gcs as bucket_gcs
    from zarrstream.stores.buckets import obstore as bucket_obstore
    from zarrstream.stores.buckets import s3 as bucket_s3

    client: Any = require("azure.storage.blob.aio").ContainerClient
    two_at_a_time: tuple[tuple[Any, str, str], ...] = (
        (bucket_s3.S3Bucket, "_page", "MaxKeys"),
        (bucket_gcs.GCSBucket, "_page", "maxResults"),
        (client, "list_blobs", "results_per_page"),
        (client, "walk_blobs", "results_per_page"),
    )
    for owner, name, option in two_at_a_time:
        page = getattr(owner, name)
        small = partialmethod(lambda self, page, option, **options: page(self, **{option: 2, **options}), page, option)
        monkeypatch.setattr(owner, name, small)
    monkeypatch.setattr(bucket_obstore, "_PAGE", 2)


def lists(method: str, path: str) -> bool:
    """Return whether a request is one for a page of names."""
    return method == "GET" and ("list-type=2" in path or "comp=list" in path or ("/o?" in path and "alt=" not in path))


@every_cloud
@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("verb", ["list_prefix", "list_dir", "getsize_prefix"])
@pytest.mark.parametrize("nth", [1, 3])
def test_a_page_that_failed_is_asked_for_again_and_not_those_before_it(
    bucket: CloudBucket, verb: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names come, each once; with two attempts for each page, one request more than without the failure."""
    policy = Retry(attempts=2, base=0, cap=0)
    with FaultProxy(bucket.port) as proxy:
        store: Any = bucket.open(port=proxy.port, retry=policy)

        async def found() -> Any:
            before = sum(lists(*request) for request in proxy.requests)
            if verb == "getsize_prefix":
                names: Any = await store.getsize_prefix("x")
            else:
                path = "x/c/" if verb == "list_prefix" else "x/c"
                names = [name.rpartition("/")[2] async for name in getattr(store, verb)(path)]
            return names, sum(lists(*request) for request in proxy.requests) - before

        async def work() -> None:
            await fill(store, KEYS)
            names, pages = await found()
            assert names == (7 if verb == "getsize_prefix" else [str(number) for number in range(7)])
            decide, seen = proxy.decide, []

            def fail_once(method: str, path: str) -> Any:
                if lists(method, path):
                    seen.append(path)
                    return decide(method, path) or (503 if len(seen) == min(nth, pages) else None)
                return decide(method, path)

            monkeypatch.setattr(proxy, "decide", fail_once)
            assert await found() == (names, pages + 1)

        asyncio.run(work())
        store.close()


@every_cloud
def test_a_folder_is_removed_within_the_limit(bucket: CloudBucket) -> None:
    """At the server there are never more requests than were allowed."""
    with FaultProxy(bucket.port) as proxy:
        store: Any = bucket.open(port=proxy.port, max_concurrency=4)

        async def work() -> None:
            await fill(store, [f"x/c/{number}" for number in range(40)])
            proxy.peak = 0
            await store.delete_dir("x")
            assert not [key async for key in store.list()]

        asyncio.run(work())
        store.close()
    assert 1 <= proxy.peak <= 4


@every_cloud
@pytest.mark.parametrize("wrapped", [True, False])
def test_nothing_is_removed_after_the_error(bucket: CloudBucket, wrapped: bool) -> None:
    """Siblings of a removal that fails are cancelled before it is raised, and no other begins."""
    with FaultProxy(bucket.port, ["403 AccessDenied"], rate=0, methods="DELETE POST") as proxy:
        made: Any = bucket.open(port=proxy.port, retry=Retry(attempts=1), max_concurrency=2)
        store = made if wrapped else made._store

        async def work() -> None:
            await fill(store, [f"x/c/{number}" for number in range(60)])
            proxy.rate, proxy.requests = 1, []
            with pytest.raises(StoreError):
                await store.delete_dir("x")
            assert len([key async for key in store.list()]) == 60

        asyncio.run(work())
        made.close()
    # Counted at the end: the proxy may come late to a request that was cancelled on its way.
    assert 1 <= sum(method in {"DELETE", "POST"} for method, _ in proxy.requests) < 40


@every_cloud
def test_a_folder_that_a_console_has_made_is_no_key(bucket: CloudBucket) -> None:
    """The empty objects whose names end in a slash are in no listing; a removal takes them, where the client can."""
    store: Any = bucket.open()
    place = store._store._place

    async def make(name: str) -> None:
        if bucket.row.name == "obstore":  # which has no names that end so
            client = s3_client(bucket.port)
            client.put_object(Bucket=bucket.name, Key=name, Body=b"")
            client.close()
        else:
            await (await store._store._session()).bucket.put(name, b"")

    async def names() -> set[str]:
        return {name async for page in (await store._store._session()).bucket.pages(place.prefix) for name, _ in page}

    async def work() -> None:
        for key in ("", "t/", "t/c/"):
            await make(place.name(key))
        assert await store.is_empty("")
        assert [key async for key in store.list()] == []
        await store.set("t/c/0", buffer(b"1"))
        await store.set("t/empty", buffer(b""))
        assert sorted([key async for key in store.list()]) == ["t/c/0", "t/empty"]
        assert [key async for key in store.list_dir("")] == ["t"]
        assert sorted([key async for key in store.list_dir("t")]) == ["c", "empty"]
        await store.delete_dir("t")
        assert [key async for key in store.list()] == []
        assert {name.removeprefix(place.prefix) for name in await names()} <= {"/"}

    asyncio.run(work())
    store.close()


@every_cloud
@pytest.mark.parametrize("clears", [True, False])
def test_what_this_store_has_removed_is_absent_and_not_lost(bucket: CloudBucket, clears: bool) -> None:
    """By both ways to the verb: the store's own, and request by request under a policy."""
    made: Any = bucket.open()

    async def work(store: Any) -> None:
        await store.set("t/zarr.json", buffer(b'{"zarr_format": 3}'))
        await store.set("t/c/0", buffer(b"1"))
        assert await store.get("t/zarr.json") is not None
        await (store.clear() if clears else store.delete_dir("t"))
        assert await store.get("t/c/0") is None
        assert not await store.exists("t/c/0")

    async def both() -> None:
        await work(made)
        await work(made._store)

    asyncio.run(both())
    made.close()


# -- listings of any store ---------------------------------------------------------------------------------------------


class Named(MemoryStore):
    """Tells names, and fails at one of them for so often."""

    def __init__(self, names: list[str], fails_at: str, error: BaseException | None = None, times: int = 1) -> None:
        super().__init__()
        self.names, self.fails_at, self.error, self.times = names, fails_at, error, times
        self.begun = 0

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        self.begun += 1
        for name in self.names:
            if name == self.fails_at and self.times:
                self.times -= 1
                if self.error is None:
                    await asyncio.get_running_loop().create_future()
                else:
                    raise self.error
            yield name


async def names_of(store: Named, policy: Retry) -> list[str]:
    return [name async for name in ResilientStore(store, retry=policy).list_prefix("")]


def test_a_listing_that_begins_anew_is_not_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that were told before are passed over some at a time, each with the time of a call."""
    monkeypatch.setattr(resilient, "_NAMES_AT_ONCE", 2)
    names = [f"{number:02}" for number in range(20)]
    store = Named(names, "15", ConnectionResetError("reset"))
    calls = []
    taken = resilient._Told.next_names

    async def counted(self: Any) -> Any:
        calls.append(found := await taken(self))
        return found

    monkeypatch.setattr(resilient._Told, "next_names", counted)
    assert asyncio.run(names_of(store, Retry(attempts=2, base=0))) == names
    assert store.begun == 2
    assert calls.count([]) == 6


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), None], ids=["error", "time"])
def test_a_listing_that_fails_at_one_name_for_good_ends(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun anew as often as the policy says, though all before that name is told well each time."""
    monkeypatch.setattr(resilient, "_NAMES_AT_ONCE", 2)
    store = Named([f"{number:02}" for number in range(20)], "15", error, times=1000)
    with pytest.raises(StoreTimeoutError if error is None else ConnectionResetError):
        asyncio.run(names_of(store, Retry(attempts=3, base=0, cap=0, attempt_timeout=0.02)))
    assert store.begun == 3


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), None], ids=["error", "time"])
def test_a_listing_without_an_order_is_whole(error: Exception | None) -> None:
    """What has been told is known by its name, and not by where it stood."""
    names = ["b", "a", "d", "c", "e"]
    store = Named(names, "c", error)
    policy = Retry(attempts=5, base=0, cap=0, attempt_timeout=0.02)
    assert asyncio.run(names_of(store, policy)) == names
    assert store.begun == 2


def test_a_listing_that_is_refused_or_too_long_to_be_begun_again_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not list is told at once; of how many names it is known that they were told has an end."""
    refused = Named(["b", "a", "d", "c", "e"], "c", StoreAccessError("no"))
    with pytest.raises(StoreAccessError):
        asyncio.run(names_of(refused, Retry(attempts=5, base=0)))
    monkeypatch.setattr(resilient, "_REMEMBERED", 2)
    long = Named(["b", "a", "d", "c", "e"], "c", ConnectionResetError("reset"))
    with pytest.raises(ConnectionResetError):
        asyncio.run(names_of(long, Retry(attempts=5, base=0)))
    assert (refused.begun, long.begun) == (1, 1)
