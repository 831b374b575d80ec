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

from tests.clouds import CLOUD_ROWS, CloudBucket, every_cloud, every_s3
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

FOR_EVER = 60.0  # seconds: a hang lasts as long as the proxy


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
        for deadline, timeout in ((0.5, 2 * FOR_EVER), (2 * FOR_EVER, 0.5)):
            proxy.faults = []
            store: Any = bucket.open(port=proxy.port, retry=Retry(deadline=FOR_EVER, attempt_timeout=None))
            array = array_in(store, 4)
            store.retry = Retry(deadline=deadline, attempt_timeout=None)  # what it took to get here has no deadline
            took, error = until_it_raises(array, timeout, face, proxy)
            assert took < FOR_EVER
            if timeout < deadline:
                assert isinstance(error, ChunkTimeoutError)
            else:
                assert isinstance(error.cause, StoreTimeoutError)
            store.close()
        while proxy.under_way:  # the suite's own time-out ends it where something is left
            time.sleep(0.01)


def until_it_raises(array: Any, timeout: float, face: str, proxy: FaultProxy) -> tuple[float, Any]:
    """Return how long a pass took, and what ended it."""

    async def awaited() -> tuple[float, Any]:
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


def _botocore_that_reads_long(monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy) -> dict[str, Any]:
    read = require("botocore.loaders").JSONFileLoader.load_file

    def load_file(*where: Any) -> Any:
        proxy.ended.wait(FOR_EVER)  # until the test has ended: whatever the machine does, the deadline is before
        return read(*where)

    monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", load_file)
    monkeypatch.setattr("zarrstream.stores.buckets.s3._readers", {})
    return {}


def _metadata_that_hang(monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy) -> dict[str, Any]:
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, f"127.0.0.1:{proxy.port}")
    return {"credentials": None}


def _tokens_that_hang(_: pytest.MonkeyPatch, proxy: FaultProxy) -> dict[str, Any]:
    serialization = require("cryptography.hazmat.primitives.serialization")
    key = require("cryptography.hazmat.primitives.asymmetric.rsa").generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "credentials": {
            "type": "service_account",
            "client_email": "somebody@example.com",
            "private_key": key.private_bytes(*form).decode(),
            "token_uri": f"http://127.0.0.1:{proxy.port}/token",
        }
    }


_ROWS = {row.name: row for row in CLOUD_ROWS}


@pytest.mark.parametrize(
    ("cloud", "hinder"),
    [
        pytest.param(_ROWS[name], hinder, id=f"{name}{hinder.__name__}", marks=_ROWS[name].marks)
        for name, hinder in (
            ("s3fs", _botocore_that_reads_long),
            ("gcsfs", _metadata_that_hang),
            ("gcsfs", _tokens_that_hang),
        )
    ],
)
def test_the_deadline_counts_what_a_client_needs_before_its_first_request(
    bucket: CloudBucket, hinder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop waits for none of it."""
    with FaultProxy(bucket.port, [HANG]) as proxy:
        store = bucket.open(retry=Retry(deadline=0.3), **hinder(monkeypatch, proxy))
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError):
            sync(store.get("k", PROTOTYPE))
        assert time.monotonic() - began < FOR_EVER
        store.close()


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
