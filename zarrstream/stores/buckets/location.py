"""A prefix in a bucket: which one it is, how it is reached, and what of it is secret."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from zarrstream import places
from zarrstream.errors import MissingExtraError, StoreOptionError
from zarrstream.identity import spelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.stores.buckets.bucket import Bucket

_SECRET_OPTIONS = ("secret", "key", "token", "password", "credential", "private", "signature", "connection_string")
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
)
_SHORTEST_SECRET = 6  # what is shorter would be found by chance
#: s3fs's names of options -> obstore's.
_OBSTORE = {"key": "access_key_id", "secret": "secret_access_key", "token": "session_token", "anon": "skip_signature"}


@dataclass(frozen=True)
class RemotePlace:
    """A prefix in a bucket.

    Attributes
    ----------
    back_end : {"s3", "gs", "az"}
        Whose.
    bucket, prefix : str
        Which; the prefix has no slash at either end.
    engine : str
        The client: "s3fs", "gcsfs", "adlfs", "obstore".
    endpoint : str or None
        Where the service is, unless it is the provider's own.
    region : str or None
        Where the bucket is, if that was said.
    options : dict
        The client's, as they were given. They may hold credentials.
    """

    back_end: str
    bucket: str
    prefix: str
    engine: str
    endpoint: str | None = None
    region: str | None = None
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint or "")
        if "@" in parts.netloc or parts.query:
            raise StoreOptionError(
                f"the endpoint {parts.scheme}://{parts.hostname} of {self.back_end!r} holds credentials, and endpoints "
                f"are shown in messages and logs: give the address alone (endpoint_url, or the environment's), and the "
                f"credentials as options"
            )

    def __str__(self) -> str:
        where = f"{self.back_end}://{self.bucket}{'/' if self.prefix else ''}{self.prefix}"
        return f"{where} at {self.endpoint}" if self.endpoint else where

    @property
    def container(self) -> str:
        """The bucket alone, and its endpoint."""
        return f"{self.back_end}://{self.bucket} at {spelled(self.endpoint) if self.endpoint else 'its provider'}"

    @property
    def whole(self) -> tuple[str, str]:
        """The bucket, by its endpoint in one spelling, and the prefix in it."""
        endpoint = spelled(self.endpoint) if self.endpoint else None
        return f"{self.back_end}://{self.bucket}{f' at {endpoint}' if endpoint else ''}", self.prefix

    def name(self, key: str) -> str:
        """Return an object's name in the bucket."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def key(self, name: str) -> str:
        """Return the key of an object, by its name in the bucket."""
        return name[len(self.prefix) + 1 :] if self.prefix else name

    def connect(self) -> Bucket:
        """Make a client, for the event loop that runs."""
        if self.engine == "obstore":
            from zarrstream.stores.buckets import obstore as bucket_obstore

            if bucket_obstore.works_here():
                return bucket_obstore.ObstoreBucket(self.bucket, self._obstore_options())
            installed(
                "s3fs",
                "s3",
                why=", since this process was forked from one that has used obstore, which does "
                "not work after a fork: start processes with spawn or forkserver, or install it",
            )
        if self.back_end == "s3":
            from zarrstream.stores.buckets.s3 import S3Bucket

            return S3Bucket(self.bucket, self._s3fs_options())
        if self.back_end == "gs":
            from zarrstream.stores.buckets.gcs import GCSBucket

            return GCSBucket(self.bucket, self.options)
        from zarrstream.stores.buckets.azure import AzureBucket

        return AzureBucket(self.bucket, self.options)

    def _s3fs_options(self) -> dict[str, Any]:
        theirs = {value: name for name, value in _OBSTORE.items()}
        left_out = {"client_options", "endpoint", "endpoint_url"}  # the endpoint is ours to give, once
        options = {theirs.get(name, name): value for name, value in self.options.items() if name not in left_out}
        if "endpoint_url" in (client := options.get("client_kwargs") or {}):
            options["client_kwargs"] = {name: value for name, value in client.items() if name != "endpoint_url"}
        if self.region is not None:
            options["client_kwargs"] = {**(options.get("client_kwargs") or {}), "region_name": self.region}
        return {**options, "endpoint_url": self.endpoint} if self.endpoint else options

    def _obstore_options(self) -> dict[str, Any]:
        left_out = {"endpoint", "endpoint_url"}  # as above
        options = {_OBSTORE.get(name, name): value for name, value in self.options.items() if name not in left_out}
        region = self.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        client = dict(options.get("client_options") or {})
        client.setdefault("timeout", "1 hour")  # deadlines are ours: see `zarrstream.stores.wrappers.resilient`
        if self.endpoint:
            options["endpoint"] = self.endpoint
            client.setdefault("allow_http", self.endpoint.startswith("http://"))
        return {**options, **({"region": region} if region else {}), "client_options": client}

    def secrets(self) -> frozenset[str]:
        """Return what no message may hold."""
        given = {*_secrets(self.options), *(os.environ.get(name, "") for name in _SECRET_VARIABLES)}
        parts = {part.partition("=")[2] for text in given for part in text.replace("&", ";").split(";")}
        raw = {secret for secret in given | parts if len(secret) >= _SHORTEST_SECRET}
        return frozenset(raw | {quote(secret, safe="") for secret in raw} | {unquote(secret) for secret in raw})


def installed(driver: str, extra: str, *, why: str = "") -> None:
    """Raise `MissingExtraError` where a driver is not installed."""
    if not places.is_there(driver):
        raise MissingExtraError(f"this store needs the package {driver!r}{why}: pip install 'zarrstream[{extra}]'")


def _secrets(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _secrets(value)
        elif isinstance(value, str) and any(word in name.lower() for word in _SECRET_OPTIONS):
            yield value
