"""Retries, deadlines and limits on real servers, seen from their side."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from tests.clouds import CloudBucket, every_cloud, every_s3
from tests.fault_proxy import HANG, FaultProxy
from tests.optional import require
from tests.values import PROTOTYPE, buffer
from zarrstream import Retry, aio, stream_chunks
from zarrstream.errors import (
    ChunkReadError,
    ChunkTimeoutError,
    StoreAccessError,
    StoreTimeoutError,
)

require("tenacity")


def array_in(store: Any, count: int = 32) -> zarr.Array[Any]:
    array = zarr.create_array(store, shape=(count * 64,), chunks=(64,), dtype="i4", name="x", compressors=None)
    array[:] = np.repeat(np.arange(count), 64)
    return array


@every_cloud
def test_a_fifth_of_the_requests_refused_and_everything_arrives(bucket: CloudBucket) -> None:
    """Attempts stay within the policy: the client makes none of its own."""
    policy = Retry(attempts=8, base=0.005, cap=0.02)
    with FaultProxy(bucket.port, [503], rate=0.2, seed=1, paths="c", methods="GET PUT") as proxy:
        store = bucket.open(port=proxy.port, retry=policy, max_concurrency=8)
        array = array_in(store)
        assert np.array_equal(np.concatenate([chunk.data for chunk in stream_chunks(array)]), array[:])
        store.close()
        asked = [f"{method} {path.partition('?')[0]}" for method, path in proxy.requests]
    assert proxy.met[503] > 5
    assert max(asked.count(one) for one in asked if "x%2Fc" in one or "x/c/" in one) <= 3 * policy.attempts


@every_cloud
@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_server_that_never_answers_ends_within_the_deadline(bucket: CloudBucket, face: str) -> None:
    """The store's deadline, or the stream's time-out, whichever is first; at the server nothing is left open."""
    with FaultProxy(bucket.port, methods="GET") as proxy:
        deadline = 1.0
        store = bucket.open(port=proxy.port, retry=Retry(deadline=deadline, attempt_timeout=None))
        sync(with_client(store))
        array = array_in(store, 4)
        for timeout, kind in ((120.0, StoreTimeoutError), (0.5, ChunkTimeoutError)):
            proxy.faults = []
            took, error = until_it_raises(array, timeout, face, proxy)
            assert took < min(deadline, timeout) + 0.5
            assert isinstance(error if kind is ChunkTimeoutError else error.cause, kind)
        until_idle = time.monotonic() + 5
        while proxy.under_way:
            assert time.monotonic() < until_idle
            time.sleep(0.01)
        store.close()


async def with_client(store: Any) -> None:
    """Make the running loop's client, outside of any deadline: botocore may take a second where the machine is busy."""
    await store._store.exists("k")


def until_it_raises(array: Any, timeout: float, face: str, proxy: FaultProxy) -> tuple[float, Any]:
    """Return how long a pass took, and what ended it."""

    async def awaited() -> tuple[float, Any]:
        await with_client(array.store)
        proxy.faults = [HANG]
        began = time.monotonic()
        with pytest.raises((ChunkReadError, ChunkTimeoutError)) as caught:
            async for _ in aio.stream_chunks(array, timeout=timeout):
                pass
        return time.monotonic() - began, caught.value

    if face == "aio":
        return asyncio.run(awaited())
    proxy.faults = [HANG]
    began = time.monotonic()
    with pytest.raises((ChunkReadError, ChunkTimeoutError)) as caught:
        for _ in stream_chunks(array, timeout=timeout):
            pass
    return time.monotonic() - began, caught.value


@every_s3
def test_ten_threads_of_ten_requests_never_exceed_the_limit(bucket: CloudBucket) -> None:
    """Counted at the server's side; every thread has a store of its own."""
    with FaultProxy(bucket.port) as proxy:
        first = bucket.open(port=proxy.port, max_concurrency=16)
        asyncio.run(first.set("k", buffer(b"1" * 10_000)))
        prefix = first._store._place.prefix  # type: ignore[attr-defined]
        proxy.peak = 0

        def work() -> None:
            store = bucket.open(prefix, port=proxy.port, max_concurrency=16)

            async def ask() -> None:
                for _ in range(3):
                    await asyncio.gather(*(store.get("k", PROTOTYPE) for _ in range(10)))

            asyncio.run(ask())
            store.close()

        threads = [threading.Thread(target=work) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first.close()
    assert 2 <= proxy.peak <= 16
    assert proxy.count("k") == 300


@every_s3
def test_credentials_are_in_no_message_and_no_repr(bucket: CloudBucket) -> None:
    """Also where the server's answer quotes what it was sent."""
    secret = "not-the-secret-of-the-server"  # nor any other's  # noqa: S105  # nor any other's
    store: Any = bucket.open(storage_options={"key": "zarrstream", "secret": secret}, retry=None)
    with pytest.raises(StoreAccessError, match="refused the credentials") as caught:
        asyncio.run(store.get("k", PROTOTYPE))
    error: BaseException | None = caught.value
    while error is not None:
        assert secret not in f"{error} {error!r}"
        error = error.__cause__
    assert secret not in f"{store!r} {store} {store._store._place!r}"
    store.close()
