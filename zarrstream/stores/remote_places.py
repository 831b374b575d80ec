"""Where a bucket is and how it is reached: what a URL or its parts say, for S3, Google Cloud Storage and Azure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zarrstream import places
from zarrstream.errors import MissingExtraError, StoreOptionError
from zarrstream.identity import endpoint_of, spelled
from zarrstream.stores.remote import RemoteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.stores.bucket import Bucket

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
            from zarrstream.stores import bucket_obstore

            if bucket_obstore.works_here():
                return bucket_obstore.ObstoreBucket(self.bucket, self._obstore_options())
            _installed(
                "s3fs",
                "s3",
                why=", since this process was forked from one that has used obstore, which does "
                "not work after a fork: start processes with spawn or forkserver, or install it",
            )
        if self.back_end == "s3":
            from zarrstream.stores.bucket_s3 import S3Bucket

            return S3Bucket(self.bucket, self._s3fs_options())
        if self.back_end == "gs":
            from zarrstream.stores.bucket_gcs import GCSBucket

            return GCSBucket(self.bucket, self.options)
        from zarrstream.stores.bucket_azure import AzureBucket

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
        client.setdefault("timeout", "1 hour")  # deadlines are ours: see `zarrstream.stores.resilient`
        if self.endpoint:
            options["endpoint"] = self.endpoint
            client.setdefault("allow_http", self.endpoint.startswith("http://"))
        return {**options, **({"region": region} if region else {}), "client_options": client}

    def secrets(self) -> frozenset[str]:
        """Return what no message may hold."""
        given = {*_secrets(self.options), *(os.environ.get(name, "") for name in _SECRET_VARIABLES)}
        parts = {part.partition("=")[2] for text in given for part in text.replace("&", ";").split(";")}
        return frozenset(secret for secret in given | parts if len(secret) >= _SHORTEST_SECRET)


def open_s3(
    url: str | None = None,
    *,
    bucket: str | None = None,
    prefix: str = "",
    region: str | None = None,
    endpoint_url: str | None = None,
    engine: str = "s3fs",
    storage_options: dict[str, Any] | None = None,
    missing_on_403: bool = False,
    read_only: bool = False,
) -> RemoteStore:
    """Open a prefix in a bucket of S3, or of what speaks its language (MinIO, Ceph, R2, …).

    Parameters
    ----------
    url : str, optional
        ``s3://bucket/prefix``; or the parts:
    bucket, prefix : str
        Which.
    region : str, optional
        Where the bucket is; by default the environment's (``AWS_REGION``, a profile).
    endpoint_url : str, optional
        Of a service that is not Amazon's; by default ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``.
    engine : {"s3fs", "obstore"}, optional
        The client. obstore is faster, and knows fewer options.
    storage_options : dict, optional
        The client's own. For both engines ``key``, ``secret``, ``token`` and ``anon`` are credentials.
    missing_on_403 : bool, optional
        See `RemoteStore`.
    read_only : bool, optional
        Whether to refuse writes.

    Raises
    ------
    StoreOptionError
        No bucket, or an engine that is none.
    MissingExtraError
        The engine is not installed.
    """
    bucket, prefix = _parts("s3", url, bucket, prefix)
    if engine not in {"s3fs", "obstore"}:
        raise StoreOptionError(f"'s3' has no engine {engine!r}: there are 's3fs' and 'obstore'")
    _installed(engine, "s3" if engine == "s3fs" else engine)
    options = dict(storage_options or {})
    client = options.get("client_kwargs") or {}
    given = (endpoint_url, client.get("endpoint_url"), options.get("endpoint_url"), options.get("endpoint"))
    place = RemotePlace("s3", bucket, prefix, engine, endpoint_of("s3", *given), region, options)
    return RemoteStore(place, read_only=read_only, missing_on_403=missing_on_403)


def open_gcs(
    url: str | None = None,
    *,
    bucket: str | None = None,
    prefix: str = "",
    credentials: str | dict[str, Any] | None = None,
    endpoint_url: str | None = None,
    storage_options: dict[str, Any] | None = None,
    missing_on_403: bool = False,
    read_only: bool = False,
) -> RemoteStore:
    """Open a prefix in a bucket of Google Cloud Storage, through gcsfs.

    Parameters
    ----------
    url : str, optional
        ``gs://bucket/prefix``; or the parts:
    bucket, prefix : str
        Which.
    credentials : str or dict, optional
        The path of a key's file, its content, or ``"anon"``; by default gcsfs's chain, and ``"anon"`` where
        ``STORAGE_EMULATOR_HOST`` is set.
    endpoint_url : str, optional
        Of a service that is not Google's; by default ``STORAGE_EMULATOR_HOST``.
    storage_options : dict, optional
        gcsfs's own.
    missing_on_403 : bool, optional
        See `RemoteStore`.
    read_only : bool, optional
        Whether to refuse writes.

    Raises
    ------
    StoreOptionError
        No bucket.
    MissingExtraError
        gcsfs is not installed.
    """
    bucket, prefix = _parts("gs", url, bucket, prefix)
    _installed("gcsfs", "gcs")
    options = dict(storage_options or {})
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if credentials is None and emulator and "token" not in options:
        credentials = "anon"
    if credentials is not None:
        options["token"] = credentials
    if endpoint_url is not None:
        options["endpoint_url"] = endpoint_url
    place = RemotePlace("gs", bucket, prefix, "gcsfs", endpoint_of("gs", options.get("endpoint_url")), options=options)
    return RemoteStore(place, read_only=read_only, missing_on_403=missing_on_403)


def open_azure(
    url: str | None = None,
    *,
    container: str | None = None,
    prefix: str = "",
    account_name: str | None = None,
    account_key: str | None = None,
    sas_token: str | None = None,
    connection_string: str | None = None,
    use_managed_identity: bool = False,
    endpoint_url: str | None = None,
    storage_options: dict[str, Any] | None = None,
    missing_on_403: bool = False,
    read_only: bool = False,
) -> RemoteStore:
    """Open a prefix in a container of Azure Blob Storage, through adlfs.

    Parameters
    ----------
    url : str, optional
        ``az://container/prefix``, or ``abfs://container@account.dfs.core.windows.net/prefix``; or the parts:
    container, prefix : str
        Which.
    account_name : str, optional
        The storage account; by default ``AZURE_STORAGE_ACCOUNT_NAME``.
    account_key, sas_token, connection_string : str, optional
        Who asks: one of them, or none for adlfs's chain (``AZURE_STORAGE_CONNECTION_STRING`` first).
    use_managed_identity : bool, optional
        Whether the identity of the machine asks.
    endpoint_url : str, optional
        Of a service that is not Azure's, the account's name included: ``http://127.0.0.1:10000/devstoreaccount1``.
    storage_options : dict, optional
        adlfs's own.
    missing_on_403 : bool, optional
        See `RemoteStore`.
    read_only : bool, optional
        Whether to refuse writes.

    Raises
    ------
    StoreOptionError
        No container, or more than one kind of credentials.
    MissingExtraError
        adlfs is not installed.
    """
    container, prefix = _parts("az", url, container, prefix, called="container")
    container, _, host = container.partition("@")
    account_name = account_name or host.partition(".")[0] or None
    _installed("adlfs", "azure")
    proofs = {"account_key": account_key, "sas_token": sas_token, "connection_string": connection_string}
    given = {name: value for name, value in proofs.items() if value is not None}
    if len(given) + use_managed_identity > 1:
        named = [*given, *(["use_managed_identity"] if use_managed_identity else [])]
        raise StoreOptionError(f"'az' takes one kind of credentials, not {' and '.join(named)}")
    if endpoint_url is not None:
        given = {"connection_string": _connection_string(endpoint_url, account_name, given)}
    options: dict[str, Any] = {**(storage_options or {}), **given}
    if account_name is not None:
        options["account_name"] = account_name
    if use_managed_identity:
        options["use_managed_identity"] = True
    place = RemotePlace("az", container, prefix, "adlfs", _azure_endpoint(options, endpoint_url), options=options)
    return RemoteStore(place, read_only=read_only, missing_on_403=missing_on_403)


def _connection_string(endpoint: str, account: str | None, given: dict[str, str]) -> str:
    if "connection_string" in given:
        return given["connection_string"]
    parts = [f"BlobEndpoint={endpoint}", f"AccountName={account or endpoint.rpartition('/')[2]}"]
    if "account_key" in given:
        parts.append(f"AccountKey={given['account_key']}")
    if "sas_token" in given:
        parts.append(f"SharedAccessSignature={given['sas_token'].removeprefix('?')}")
    return ";".join(parts)


def _azure_endpoint(options: dict[str, Any], endpoint: str | None) -> str | None:
    """Return the service's address: two accounts may have containers of one name."""
    text = options.get("connection_string") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING") or ""
    named = dict(part.partition("=")[::2] for part in text.split(";") if "=" in part)
    account = options.get("account_name") or named.get("AccountName") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    return endpoint or named.get("BlobEndpoint") or (f"https://{account}.blob.core.windows.net" if account else None)


def _parts(scheme: str, url: str | None, bucket: str | None, prefix: str, *, called: str = "bucket") -> tuple[str, str]:
    if url is not None:
        if bucket is not None:
            raise StoreOptionError(f"{scheme!r}: the URL names the {called} already; leave {called}= out")
        bucket, _, inner = url.partition("://")[2].partition("/")
        prefix = "/".join(part.strip("/") for part in (inner, prefix) if part.strip("/"))
    if not bucket:
        raise StoreOptionError(
            f"{scheme!r}: which {called}? Write {scheme}://{called.upper()}/PREFIX, or pass {called}= and prefix="
        )
    return bucket, prefix.strip("/")


def _installed(driver: str, extra: str, *, why: str = "") -> None:
    if not places.is_there(driver):
        raise MissingExtraError(f"this store needs the package {driver!r}{why}: pip install 'zarrstream[{extra}]'")


def _secrets(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _secrets(value)
        elif isinstance(value, str) and any(word in name.lower() for word in _SECRET_OPTIONS):
            yield value
