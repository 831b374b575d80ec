"""Where a bucket is asked for: the host that was named and no other, and no credential in an endpoint."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from tests.optional import require
from zarrstream import open_store
from zarrstream.errors import StoreOptionError

SECRET = "PLANTEDsecret"  # noqa: S105  # what must not be shown


@pytest.mark.parametrize(
    ("url", "driver", "endpoint"),
    [
        ("s3://b/p", "s3fs", f"http://user:{SECRET}@127.0.0.1:9"),
        ("s3://b/p", "s3fs", f"http://{SECRET}@127.0.0.1:9"),
        ("gs://b/p", "gcsfs", f"http://user:{SECRET}@127.0.0.1:9"),
        ("az://c/p", "adlfs", f"https://acct.blob.core.windows.net/?sv=2022&sig={SECRET}"),
    ],
)
def test_credentials_in_an_endpoint_are_refused_and_not_repeated(url: str, driver: str, endpoint: str) -> None:
    """An endpoint is shown wherever a store is, and kept in checkpoints."""
    require(driver)
    with pytest.raises(StoreOptionError, match="holds credentials") as caught:
        open_store(url, endpoint_url=endpoint)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_endpoint_of_the_environment_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its credentials are neither shown nor pickled."""
    require("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(StoreOptionError, match="holds credentials") as caught:
        open_store("s3://b/p")
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert SECRET.encode() not in pickle.dumps(open_store("s3://b/p"))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("abfs://c@acct.dfs.core.windows.net/p", "acct.blob.core.windows.net"),
        ("abfs://c@acct.dfs.core.chinacloudapi.cn/p", "acct.blob.core.chinacloudapi.cn"),
        ("abfs://c@acct.dfs.core.usgovcloudapi.net/p", "acct.blob.core.usgovcloudapi.net"),
        ("abfs://c@acct.dfs.fabric.microsoft.com/p", "acct.blob.fabric.microsoft.com"),
        ("abfs://c@acct.z6.blob.storage.azure.net/p", "acct.z6.blob.storage.azure.net"),
        ("az://c@acct/p", "acct.blob.core.windows.net"),
    ],
)
def test_a_signature_goes_to_the_host_of_the_url(url: str, host: str) -> None:
    """And to nobody who has an account of that name in another cloud."""
    require("adlfs")
    store: Any = open_store(url, sas_token=f"sv=1&sig={SECRET}", retry=None, max_concurrency=None)

    async def asked() -> str:
        bucket = (await store._session()).bucket
        try:
            return str(bucket._system.service_client.primary_hostname)
        finally:
            await bucket.close()

    assert asyncio.run(asked()) == host
    assert store.place.endswith(f" at https://{host}")
    assert SECRET not in repr(store)
