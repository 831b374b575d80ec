"""The one table of clouds: each row is a client on a real server, and meets every law of a store."""

from __future__ import annotations

import json
import os
import urllib.request
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.cloud_services import AZURE_ACCOUNT, AZURE_KEY, S3_SECRET, S3_USER
from tests.optional import require
from zarrstream import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.store import Store

    from tests.programs import Server

#: What the tests' credentials are as storage options.
S3_OPTIONS = {"key": S3_USER, "secret": S3_SECRET}


@dataclass(frozen=True)
class CloudRow:
    """One client of one cloud.

    Attributes
    ----------
    name : str
        The test's id.
    scheme : str
        Of its URLs.
    service : str
        The fixture of `tests.cloud_services` that is the server.
    make : callable
        Makes a bucket, by port and name.
    remove : callable
        Removes a bucket with all that is in it, by port and name.
    options : callable
        What `open_store` is told to reach the server at a port.
    driver : str
        What has to be installed.
    """

    name: str
    scheme: str
    service: str
    make: Callable[[int, str], None]
    remove: Callable[[int, str], None]
    options: Callable[[int], dict[str, Any]]
    driver: str

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """Those of a test of it; moto, S3's stand-in where MinIO is not to be had, is for the full profile."""
        return [pytest.mark.server, *([pytest.mark.slow] if self.service == "moto" else [])]

    def url(self, bucket: str, prefix: str = "") -> str:
        """Return the URL of a prefix."""
        return f"{self.scheme}://{bucket}/{prefix}"


if find_spec("obstore") is not None:
    # It starts its threads, which are the process's and stay, before the first test is watched for what it leaves.
    import_module("obstore").put(import_module("obstore.store").MemoryStore(), "k", b"")


def s3_client(port: int) -> Any:
    """Return botocore's own client, which makes and removes buckets."""
    session = require("botocore.session").Session()
    config = require("botocore.config").Config(s3={"addressing_style": "path"})
    return session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=S3_USER,
        aws_secret_access_key=S3_SECRET,
        config=config,
    )


def _make_s3(port: int, bucket: str) -> None:
    client = s3_client(port)
    client.create_bucket(Bucket=bucket)
    client.close()


def _remove_s3(port: int, bucket: str) -> None:
    client = s3_client(port)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=found["Key"])
    client.delete_bucket(Bucket=bucket)
    client.close()


def _gcs(port: int, method: str, path: str, content: Any = None) -> Any:
    url = f"http://127.0.0.1:{port}/storage/v1/b{path}"
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  # http, and of this machine
        return json.loads(response.read() or b"{}")


def _make_gcs(port: int, bucket: str) -> None:
    _gcs(port, "POST", "", {"name": bucket})


def _remove_gcs(port: int, bucket: str) -> None:
    for found in _gcs(port, "GET", f"/{bucket}/o").get("items", ()):
        _gcs(port, "DELETE", f"/{bucket}/o/{urllib.request.quote(found['name'], safe='')}")  # type: ignore[attr-defined]
    _gcs(port, "DELETE", f"/{bucket}")


def azure_string(port: int, key: str = AZURE_KEY) -> str:
    """Return a connection string of Azurite's."""
    endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    return f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={key};BlobEndpoint={endpoint}"


def _azure(port: int) -> Any:
    return require("azure.storage.blob").BlobServiceClient.from_connection_string(azure_string(port))


def _make_azure(port: int, container: str) -> None:
    with _azure(port) as client:
        client.create_container(container)


def _remove_azure(port: int, container: str) -> None:
    with _azure(port) as client:
        client.delete_container(container)


def _s3_options(port: int) -> dict[str, Any]:
    return {"endpoint_url": f"http://127.0.0.1:{port}", "region": "us-east-1", "storage_options": dict(S3_OPTIONS)}


CLOUD_ROWS = (
    CloudRow("s3fs", "s3", "minio", _make_s3, _remove_s3, _s3_options, "s3fs"),
    CloudRow(
        "obstore",
        "s3",
        "minio",
        _make_s3,
        _remove_s3,
        lambda port: {**_s3_options(port), "engine": "obstore"},
        "obstore",
    ),
    CloudRow("moto", "s3", "moto", _make_s3, _remove_s3, _s3_options, "s3fs"),
    CloudRow(
        "gcsfs",
        "gs",
        "fake_gcs",
        _make_gcs,
        _remove_gcs,
        lambda port: {"endpoint_url": f"http://127.0.0.1:{port}", "credentials": "anon"},
        "gcsfs",
    ),
    CloudRow(
        "adlfs",
        "az",
        "azurite",
        _make_azure,
        _remove_azure,
        lambda port: {"connection_string": azure_string(port)},
        "adlfs",
    ),
)
every_cloud = pytest.mark.parametrize("cloud", [pytest.param(row, id=row.name, marks=row.marks) for row in CLOUD_ROWS])
every_s3 = pytest.mark.parametrize(
    "cloud", [pytest.param(row, id=row.name, marks=pytest.mark.server) for row in CLOUD_ROWS if row.service == "minio"]
)


@dataclass(frozen=True)
class CloudBucket:
    """A bucket that the tests have made.

    Attributes
    ----------
    row : CloudRow
        Whose.
    port : int
        Of its server.
    name : str
        Its name.
    """

    row: CloudRow
    port: int
    name: str

    def open(self, prefix: str | None = None, *, port: int | None = None, **options: Any) -> Store:
        """Open a prefix, by default one that nobody has, perhaps through a proxy's port."""
        url = self.row.url(self.name, f"p{uuid4().hex}" if prefix is None else prefix)
        return open_store(url, **{**self.row.options(port or self.port), **options})

    def remove(self) -> None:
        """Remove the bucket."""
        self.row.remove(self.port, self.name)


def new_bucket(cloud: CloudRow, server: Server) -> CloudBucket:
    """Make a bucket."""
    name = f"b{os.urandom(8).hex()}"
    cloud.make(server.port, name)
    return CloudBucket(cloud, server.port, name)
