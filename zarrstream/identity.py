"""Which store is this: the one answer for checkpoints, caches, limits and traces."""

# ruff: noqa: ANN401, PLR0911  # stores and clients are of whichever class, and each class is one answer

from __future__ import annotations

import configparser
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DATABASES = {
    "lmdb": "lmdb",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
    "postgresql": "postgresql",
    "shm": "lmdb",
    "sqlite": "sqlite",
}
_OF_ZARR = {"LocalStore": "file", "MemoryStore": "memory", "ZipStore": "zip"}
_PORTS = {"http": 80, "https": 443}
#: File systems of fsspec whose paths, with host and port, are the whole place.
_HOSTS = frozenset({"ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs"})
_SCHEMES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az"}
#: Text that is made for people, or differs in each process: an address in memory, a repr.
_UNSTABLE = re.compile(r"\b0x[0-9a-f]+\b|[<>\n]", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S")


class Identity(NamedTuple):
    """The place of a store's data: equal exactly where the data are the same.

    Attributes
    ----------
    root : str
        The widest part that stores can share: a bucket and its endpoint, a database's table, the file system. No
        credentials.
    prefix : str
        Where the store's keys begin beneath it, without slashes at the ends; ``""`` at the root itself.
    """

    root: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.root}/{self.prefix}" if self.prefix else self.root

    def name(self, key: str) -> str:
        """Return a key's name beneath the root: one chunk has one name, whichever store shows it."""
        return f"{self.prefix}/{key}".strip("/") if self.prefix else key


def unwrapped(store: Any) -> Any:
    """Return the store beneath all wrappers."""
    while isinstance(store, WrapperStore):
        store = store._store  # noqa: SLF001  # zarr's wrappers have no public way to what they wrap
    return store


def kind_of(store: Any) -> str:
    """Return a store's kind in a word: its scheme, or its class where it has none; wrappers are looked through."""
    store = unwrapped(store)
    name = type(store).__name__
    system = _system(store) if hasattr(store, "fs") else None
    place = getattr(getattr(system, "mapping", store), "place", None)
    if place:
        return str(place).partition(":")[0]
    return _OF_ZARR.get(name, name) if system is None else _protocol(system)


def database_of(store: object) -> dict[str, str]:
    """Return the database that a store lies in, as an attribute of telemetry; nothing where it lies in none."""
    kind = kind_of(store)
    return {"db.system.name": _DATABASES[kind]} if kind in _DATABASES else {}


def flusher_of(store: object) -> Callable[[], object] | None:
    """Return the call that makes a store's writes durable; None where they are so when they return."""
    inner = unwrapped(store)
    if isinstance(inner, FsspecStore):
        inner = getattr(_system(inner), "mapping", None) or inner
    return None if getattr(inner, "durable_on_write", True) else inner.flush


def identity_of(store: Any) -> Identity | None:
    """Return the identity of the place that a store writes to; None where it cannot be known for sure.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store. A wrapper that has a ``place`` of its own is asked first; others are looked through.

    Notes
    -----
    A store says where it is by an attribute: ``whole_place``, a pair of root and prefix, or ``place``, a string that is
    the same in every process. A display string is taken only where a class defines one that is a URL.
    """
    while True:
        if (told := _told(store)) is not None:
            return told
        if not isinstance(store, WrapperStore):
            break
        store = store._store  # noqa: SLF001  # as in `unwrapped`
    if hasattr(store, "place"):  # it says that it has none
        return None
    if isinstance(store, LocalStore):
        return _folder(store.root)
    if isinstance(store, ZipStore):
        path = getattr(store, "path", None)
        return Identity(f"zip://{Path(path).resolve().as_posix()}") if isinstance(path, (str, os.PathLike)) else None
    if isinstance(store, FsspecStore):
        return _in_system(_system(store), store.path)
    if isinstance(store, MemoryStore):
        name = getattr(store, "name", None) or getattr(store, "_name", None)  # zarr's managed memory:// stores have one
        return Identity(f"memory://{name}", getattr(store, "path", "").strip("/")) if name else None
    if type(store).__name__ == "ObjectStore":
        return _in_obstore(store.store)
    return _displayed(store)


def legacy_place(store: Any) -> str | None:
    """Return the place as checkpoints of format 1 name it; None where that name said less than where the data are."""
    identity = identity_of(store)
    store = unwrapped(store)
    if identity is None:
        return None
    if getattr(store, "place", None) is not None:
        named = str(store.place)
    elif isinstance(store, LocalStore):
        named = f"file://{store.root.resolve().as_posix()}"
    elif isinstance(store, FsspecStore):
        system = _system(store)
        if _protocol(system) == "dir":
            return None
        named = f"{_protocol(system)}://{store.path} {_legacy_endpoint(system)}"
    elif isinstance(store, MemoryStore):
        named = f"{identity.root}/{getattr(store, 'path', '')}"
    else:
        named = str(identity)
    endpoint = identity.root.partition(" at ")[2]
    return named if not endpoint or _host(endpoint) in named.replace("localhost", "127.0.0.1") else None


def endpoint_of(service: str, *given: object) -> str | None:
    """Return the address of a cloud's service, from whichever source its client takes it.

    Parameters
    ----------
    service : {"s3", "gs"}
        Whose.
    *given : str or None
        The client's options, first the one that counts most.

    Returns
    -------
    str or None
        As it was given; None for the provider's own service. See `spelled`.
    """
    for address in given:
        if address:
            return str(address)
    if service == "s3":
        return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or _configured_endpoint()
    return os.environ.get("STORAGE_EMULATOR_HOST") or None


def azure_endpoint(options: Mapping[str, Any]) -> str | None:
    """Return the address of the blobs of an Azure account, from whichever source adlfs takes it; None if there is none.

    A connection string has the last word, the environment's included: adlfs asks nothing else then.

    Parameters
    ----------
    options : mapping
        The client's.
    """
    text = options.get("connection_string") or os.environ.get("AZURE_STORAGE_CONNECTION_STRING") or ""
    parts = (part.partition("=") for part in str(text).split(";"))
    named = {name.strip().lower(): value for name, _, value in parts}
    if address := named.get("blobendpoint", "").partition("?")[0]:
        return address
    if account := named.get("accountname"):
        suffix = named.get("endpointsuffix")
        protocol = named.get("defaultendpointsprotocol", "https") if suffix else "https"  # as the client has it
        return f"{protocol}://{account}.blob.{suffix or 'core.windows.net'}"
    account = options.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    host = options.get("account_host") or (f"{account}.blob.core.windows.net" if account else None)
    return f"https://{host}" if host else None


def _told(store: Any) -> Identity | None:
    """Return what a store says of itself."""
    pair = getattr(getattr(store, "mapping", store), "whole_place", None)
    if isinstance(pair, tuple):
        root, prefix = pair
        return Identity(_local(str(root)), str(prefix).strip("/"))
    place = getattr(store, "place", None)
    return None if place is None else Identity(_local(str(place)))


def _local(place: str) -> str:
    return re.sub(r"(?<=[/,@])localhost(?=[:/,]|$)", "127.0.0.1", place)


def _folder(path: str | os.PathLike[str]) -> Identity:
    return Identity("file://", Path(path).resolve().as_posix().strip("/"))


def _system(store: Any) -> Any:
    return getattr(store.fs, "sync_fs", store.fs)  # fsspec's wrapper of synchronous file systems


def _protocol(system: Any) -> str:
    return str(system.protocol if isinstance(system.protocol, str) else system.protocol[0])


def _in_system(system: Any, path: str) -> Identity | None:
    """Return the identity of a path in a file system of fsspec."""
    system = getattr(system, "sync_fs", system)
    protocol = _protocol(system)
    options = {**getattr(system, "storage_options", {})}
    if hasattr(system, "mapping"):  # one of ours
        with system._at(path) as (mapping, key):  # noqa: SLF001  # our own
            told = _told(mapping)
        return None if told is None else Identity(told.root, told.name(key))
    if protocol == "dir":
        inner = getattr(system, "path", None)
        return None if inner is None else _in_system(system.fs, "/".join((str(inner).rstrip("/"), path.strip("/"))))
    if protocol in {"file", "local"}:
        return _folder(path)
    if protocol == "memory":
        return Identity("memory://fsspec", path.strip("/"))
    container, _, prefix = path.strip("/").partition("/")
    scheme = _SCHEMES.get(protocol, protocol)
    client = options.get("client_kwargs") or {}
    if scheme == "s3":
        return _bucket(
            "s3", container, prefix, endpoint_of("s3", client.get("endpoint_url"), options.get("endpoint_url"))
        )
    if scheme == "gs":
        return _bucket("gs", container, prefix, endpoint_of("gs", options.get("endpoint_url")))
    if scheme == "az":
        endpoint = azure_endpoint(options)
        return None if endpoint is None else _bucket("az", container, prefix, endpoint)
    if scheme in {"http", "https"}:
        return Identity(path.rstrip("/"))
    host = options.get("host")
    if not host or scheme not in _HOSTS:
        return None
    return Identity(f"{scheme}://{host}:{options.get('port', '')}", path.strip("/"))


def _in_obstore(store: Any) -> Identity | None:
    """Return the identity of a store of obstore's; what it would take from its environment is not known here."""
    name, prefix = type(store).__name__, str(getattr(store, "prefix", None) or "").strip("/")
    config: Mapping[str, Any] = getattr(store, "config", None) or {}
    if name == "LocalStore" and getattr(store, "prefix", None):
        return _folder(store.prefix)
    if name == "HTTPStore":
        return Identity(str(store.url).rstrip("/"))
    endpoint = next((value for key, value in config.items() if "endpoint" in key and "virtual" not in key), None)
    if name == "S3Store" and endpoint:
        return _bucket("s3", str(config.get("bucket", "")), prefix, str(endpoint))
    if name == "AzureStore" and (endpoint or config.get("account_name")):
        address = endpoint or f"https://{config['account_name']}.blob.core.windows.net"
        return _bucket("az", str(config.get("container_name", "")), prefix, str(address))
    return None


def _bucket(scheme: str, bucket: str, prefix: str, endpoint: str | None) -> Identity:
    return Identity(f"{scheme}://{bucket}" + (f" at {spelled(endpoint)}" if endpoint else ""), prefix.strip("/"))


def spelled(address: str) -> str:
    """Write an address in one spelling: no slash at the end, no port that is the scheme's own, no credentials."""
    parts = urlsplit(address if "://" in address else f"https://{address}")
    host = (parts.hostname or "").lower()
    host = "127.0.0.1" if host == "localhost" else f"[{host}]" if ":" in host else host
    port = "" if parts.port in {None, _PORTS.get(parts.scheme)} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _host(endpoint: str) -> str:
    return urlsplit(endpoint).netloc


def _configured_endpoint() -> str | None:
    """Return the endpoint of S3 that the user's AWS configuration names."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    config = configparser.RawConfigParser(strict=False)
    try:
        config.read(os.environ.get("AWS_CONFIG_FILE") or Path("~/.aws/config").expanduser())
    except (configparser.Error, OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home
        return None
    profile = os.environ.get("AWS_PROFILE") or "default"
    section = next((name for name in (f"profile {profile}", profile) if config.has_section(name)), None)
    if section is None:
        return None
    services = config.get(section, "services", fallback="")
    nested = config.get(f"services {services}", "s3", fallback="") if services else ""
    found = re.search(r"^\s*endpoint_url\s*=\s*(\S+)", nested, re.MULTILINE)
    return found[1] if found else config.get(section, "endpoint_url", fallback=None)


def _displayed(store: Any) -> Identity | None:
    """Take the display string of somebody else's store where it is a URL that its class defines."""
    if getattr(type(store), "__str__", None) is object.__str__ or type(store).__module__.startswith(
        ("icechunk", "zarr.")
    ):
        return None
    text = str(store)
    if not _URL.match(text) or _UNSTABLE.search(text):
        return None
    return Identity(f"{type(store).__module__}.{type(store).__qualname__}:{text}")


def _legacy_endpoint(system: Any) -> str:
    options = {**getattr(system, "storage_options", {}), **getattr(system, "client_kwargs", {})}
    names = ("endpoint_url", "endpoint", "account_name", "account_host", "connection_string_host", "host", "port")
    found = {name: options[name] for name in names if options.get(name) is not None}
    return json.dumps(found, sort_keys=True, default=str)
