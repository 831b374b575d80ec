"""The table of back ends: each imported on first use, with its options checked."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zarrstream.errors import MissingExtraError, StoreOptionError
from zarrstream.urls import bare_name, file_path, folder_path, nearest, table_name, whole

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class BackEnd:
    """What is known of a back end without importing it.

    Attributes
    ----------
    scheme : str
        The name in URLs, and by parts.
    title : str
        What it is, in a few words.
    factory : str
        ``"package.module:factory"``.
    aliases : tuple of str
        Other names of the same.
    extra : str or None
        The extra of zarrstream that brings its driver; None where it needs none.
    drivers : tuple of str
        The modules of which one has to be installed; none where it needs none.
    target : callable
        From what follows ``scheme://`` to the factory's first argument; `whole` gives it the whole URL.
    is_path : bool
        Whether the place is the path of a database on this machine, in which no other path can lie.
    takes_credentials : bool
        Whether a name and a password belong in its URL: they go to a driver, and are never shown.
    """

    scheme: str
    title: str
    factory: str
    aliases: tuple[str, ...] = ()
    extra: str | None = None
    drivers: tuple[str, ...] = ()
    target: Callable[[str], str] = whole
    is_path: bool = False
    takes_credentials: bool = False


_MOCK = BackEnd("faulty", "the mock around a store", "zarrstream.faults.store:faulty")
BUILT_IN: tuple[BackEnd, ...] = (
    BackEnd("file", "a folder: zarr's LocalStore", "zarrstream.stores.opening:open_folder", target=folder_path),
    BackEnd("memory", "this process's memory, by name", "zarrstream.stores.opening:open_memory", target=bare_name),
    BackEnd("sqlite", "one SQLite file", "zarrstream.mappings.sqlite:SQLiteMapping", target=file_path, is_path=True),
    BackEnd(
        "lmdb",
        "a folder with an LMDB database",
        "zarrstream.mappings.lmdb:LMDBMapping",
        extra="shm",
        drivers=("lmdb",),
        target=partial(file_path, scheme="lmdb", example="data.lmdb"),
        is_path=True,
    ),
    BackEnd(
        "shm",
        "a table in this machine's memory, shared by processes",
        "zarrstream.mappings.shm:SharedMemoryMapping",
        extra="shm",
        drivers=("lmdb",),
        target=table_name,
    ),
    BackEnd(
        "mongodb",
        "a GridFS bucket in a MongoDB database",
        "zarrstream.mappings.gridfs:GridFSMapping",
        aliases=("mongodb+srv", "mongo_gridfs"),
        extra="mongodb",
        drivers=("pymongo",),
        takes_credentials=True,
    ),
    BackEnd(
        "postgresql",
        "a table in a PostgreSQL database",
        "zarrstream.mappings.postgresql:PostgreSQLMapping",
        aliases=("postgres",),
        extra="postgresql",
        drivers=("psycopg",),
        takes_credentials=True,
    ),
    BackEnd(
        "s3",
        "a bucket of S3, or of what speaks its language",
        "zarrstream.stores.buckets.options:open_s3",
        extra="s3",
        drivers=("s3fs", "obstore"),
    ),
    BackEnd(
        "gs",
        "a bucket of Google Cloud Storage",
        "zarrstream.stores.buckets.options:open_gcs",
        aliases=("gcs",),
        extra="gcs",
        drivers=("gcsfs",),
    ),
    BackEnd(
        "az",
        "a container of Azure Blob Storage",
        "zarrstream.stores.buckets.options:open_azure",
        aliases=("abfs", "azure", "azure_blob"),
        extra="azure",
        drivers=("adlfs",),
    ),
    BackEnd(
        "zip",
        "one zip archive, rewritable",
        "zarrstream.mappings.zip:ZipMapping",
        target=partial(file_path, scheme="zip", example="data.zip"),
        is_path=True,
    ),
)


def built_in(scheme: str) -> BackEnd:
    """Return the row of one of our own schemes."""
    return next(back_end for back_end in BUILT_IN if back_end.scheme == scheme)


def is_there(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return module in sys.modules or find_spec(module) is not None
    except ImportError:  # the package around it is not there
        return False


def make(
    back_end: BackEnd,
    arguments: tuple[str, ...],
    options: dict[str, Any],
    *,
    read_only: bool = False,
    called: str | None = None,
) -> Any:  # noqa: ANN401  # a zarr Store, or a mapping of bytes
    """Return what a back end's factory makes of a place and its options.

    Parameters
    ----------
    back_end : BackEnd
        The row.
    arguments : tuple of str
        What the URL names; empty where the parts come as options.
    options : dict
        By name.
    read_only : bool, optional
        Given to factories that have such an option.
    called : str, optional
        What the user called it, for messages; by default the scheme.

    Raises
    ------
    StoreOptionError
        An unknown option, or a place that is not named.
    MissingExtraError
        The driver, or the factory, is not installed.
    """
    factory = _load(back_end)
    signature = _signature(factory)
    if signature is None:
        raise StoreOptionError(
            f"{back_end.factory!r} is no factory of a store: it says nothing of its parameters. Register a function, "
            f"such as def open_{called or back_end.scheme}(url, *, read_only=False)"
        )
    if "read_only" in signature.parameters:
        options = {**options, "read_only": read_only}
    _check(signature, called or back_end.scheme, arguments, options)
    return factory(*arguments, **options)


@lru_cache(maxsize=64)
def _signature(factory: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(factory)
    except ValueError:  # of a class in C
        return None


def mock() -> Callable[..., Any]:
    """Return the function that puts the mock, which stands above all stores, into one."""
    return _load(_MOCK)


def _load(back_end: BackEnd) -> Callable[..., Any]:
    module, _, name = back_end.factory.partition(":")
    if back_end.drivers and not any(map(is_there, back_end.drivers)):
        raise MissingExtraError(
            f"{back_end.scheme}:// needs the package {back_end.drivers[0]!r}: "
            f"pip install 'zarrstream[{back_end.extra}]'"
        )
    try:
        factory: Any = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"the store {back_end.scheme!r} cannot be loaded from {back_end.factory!r} ({error}): "
            f"install the package that brings it"
        ) from error
    return factory  # type: ignore[no-any-return]  # found by name


#: What `open_store` takes for every store.
_GENERAL = ("cache", "max_concurrency", "rate", "read_only", "retry", "trace")
#: What s3fs, gcsfs and adlfs take.
_CLIENTS = frozenset(
    {"anon", "client_kwargs", "config_kwargs", "credential", "key", "profile", "project", "secret", "token", "use_ssl"}
)
#: Words that other libraries have for one of ours.
_REMEDIES = {"mode": "read_only=True is what mode='r' is elsewhere, and writing what is there is the default"}


def _check(signature: inspect.Signature, scheme: str, arguments: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse, by name, what the factory's signature does not have or still needs."""
    named = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    known = named[len(arguments) :]
    for name, value in options.items():
        if name not in known and not takes_any:
            raise StoreOptionError(f"{scheme!r} has no option {name!r}{_remedy(name, value, known)}")
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise StoreOptionError(f"{scheme!r}: {error}; write it as a URL, or give its parts") from error


def _remedy(name: str, value: object, known: list[str]) -> str:
    near = "." if name in _CLIENTS else nearest(name, {*known, *_GENERAL})
    own = f"Its options are {', '.join(sorted({*known, 'read_only'}))}; every store takes {', '.join(_GENERAL)}"
    if name in _REMEDIES:
        return f": {_REMEDIES[name]}. {own}"
    if name in _CLIENTS and "storage_options" in known:
        shown = value if isinstance(value, bool) else "…"
        return f": what its client takes is passed as storage_options={{{name!r}: {shown}}}. {own}"
    return f"{near} {own}"
