"""`open_s3`, `open_gcs` and `open_azure`: a bucket from its URL or its parts."""

from __future__ import annotations

import os
from typing import Any

from zarrstream.errors import StoreOptionError
from zarrstream.identity import azure_endpoint, endpoint_of
from zarrstream.stores.buckets.location import RemotePlace, installed
from zarrstream.stores.buckets.store import RemoteStore


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
    installed(engine, "s3" if engine == "s3fs" else engine)
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
    installed("gcsfs", "gcs")
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
    # The URL's host is the Data Lake's; its blobs are asked for beside it, in whichever cloud that is.
    blobs = host.replace(".dfs.", ".blob.", 1) if "." in host else None
    installed("adlfs", "azure")
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
    if blobs is not None and endpoint_url is None:
        options.setdefault("account_host", blobs)
    place = RemotePlace("az", container, prefix, "adlfs", endpoint_url or azure_endpoint(options), options=options)
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
