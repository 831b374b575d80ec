"""What a URL names, or a scheme with its parts: which back end, in which place. The one parser of all of them."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zarrstream.errors import MissingExtraError, StoreOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# One letter is a Windows drive. Everything behind "://" is taken as it is: "?", "#" and "%" are signs like any other.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://(.*)", re.DOTALL)


def file_path(rest: str) -> str:
    """Return the path in a URL of a database file: three slashes are relative, four absolute, as SQLAlchemy has it."""
    if rest.startswith("/") and rest != "/":
        return rest[1:]
    raise StoreOptionError(
        f"'//{rest}' names no file: write three slashes and a relative path (sqlite:///data.db), "
        f"or four for an absolute one (sqlite:////home/me/data.db)"
    )


def folder_path(rest: str) -> str:
    """Return the path in a ``file://`` URL: what is behind the two slashes, absolute or not."""
    if rest:
        return rest
    raise StoreOptionError("'file://' names no folder: write file:///home/me/data.zarr, or the path alone")


def bare_name(rest: str) -> str:
    """Return the name in a ``memory://`` URL, with the path that may follow it."""
    if rest.strip("/"):
        return rest
    raise StoreOptionError("'memory://' names no store: write memory://NAME")


def table_name(rest: str) -> str:
    """Return the name in a ``shm://`` URL: all that is behind the two slashes."""
    if rest:
        return rest
    raise StoreOptionError("'shm://' names no table: write shm://NAME")


def whole(url: str) -> str:
    """Return a URL that its factory takes whole."""
    return url


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
    """

    scheme: str
    title: str
    factory: str
    aliases: tuple[str, ...] = ()
    extra: str | None = None
    drivers: tuple[str, ...] = ()
    target: Callable[[str], str] = whole


BUILT_IN: tuple[BackEnd, ...] = (
    BackEnd("file", "a folder: zarr's LocalStore", "zarrstream.stores.registry:open_folder", target=folder_path),
    BackEnd("memory", "this process's memory, by name", "zarrstream.stores.registry:open_memory", target=bare_name),
    BackEnd("sqlite", "one SQLite file", "zarrstream.mappings.sqlite:SQLiteMapping", target=file_path),
    BackEnd(
        "lmdb",
        "a folder with an LMDB database",
        "zarrstream.mappings.lmdb:LMDBMapping",
        extra="shm",
        drivers=("lmdb",),
        target=file_path,
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
    ),
    BackEnd(
        "postgresql",
        "a table in a PostgreSQL database",
        "zarrstream.mappings.postgresql:PostgreSQLMapping",
        aliases=("postgres",),
        extra="postgresql",
        drivers=("psycopg",),
    ),
    BackEnd(
        "s3",
        "a bucket of S3, or of what speaks its language",
        "zarrstream.stores.remote_places:open_s3",
        extra="s3",
        drivers=("s3fs", "obstore"),
    ),
    BackEnd(
        "gs",
        "a bucket of Google Cloud Storage",
        "zarrstream.stores.remote_places:open_gcs",
        aliases=("gcs",),
        extra="gcs",
        drivers=("gcsfs",),
    ),
    BackEnd(
        "az",
        "a container of Azure Blob Storage",
        "zarrstream.stores.remote_places:open_azure",
        aliases=("abfs", "azure", "azure_blob"),
        extra="azure",
        drivers=("adlfs",),
    ),
    BackEnd("zip", "one zip archive, rewritable", "zarrstream.mappings.zip:ZipMapping", target=file_path),
)


@dataclass(frozen=True)
class Place:
    """What a URL or path names: a scheme, and what follows it; None where the place is given by parts."""

    scheme: str
    rest: str | None


def parse(url: str | os.PathLike[str], schemes: Iterable[str]) -> Place:
    """Return what ``url`` names.

    Parameters
    ----------
    url : str or os.PathLike
        A URL, a scheme alone (its parts come as options), or the path of a folder. A folder that is called like a
        scheme is written ``./s3``.
    schemes : iterable of str
        The schemes that are known.

    Raises
    ------
    StoreOptionError
        An empty text, or an unknown scheme: the message names the nearest known one.
    """
    try:
        text = os.fsdecode(url)
    except TypeError:
        text = ""
    if not text:
        raise StoreOptionError(f"a store is named by a URL or a path, not by {url!r}")
    known = sorted(schemes)
    if isinstance(url, str) and text in known:
        return Place(text, None)
    found = _URL.fullmatch(text) if isinstance(url, str) else None
    if found is None:
        return Place("file", text)
    scheme = found[1].lower()
    if scheme not in known:
        raise StoreOptionError(
            f"no store is known under {scheme!r}{nearest(scheme, known)} Known are {', '.join(known)}, and paths"
        )
    return Place(scheme, found[2])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``; ``"."`` where none is near."""
    import difflib  # only an error needs it, and an import of zarrstream is short

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def built_in(scheme: str) -> BackEnd:
    """Return the row of one of our own schemes."""
    return next(back_end for back_end in BUILT_IN if back_end.scheme == scheme)


def is_there(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
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
    if "read_only" in inspect.signature(factory).parameters:
        options = {**options, "read_only": read_only}
    _check(factory, called or back_end.scheme, arguments, options)
    return factory(*arguments, **options)


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


def _check(factory: Callable[..., Any], scheme: str, arguments: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse, by name, what the factory's signature does not have or still needs."""
    signature = inspect.signature(factory)
    named = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    known = named[len(arguments) :]
    for name in options:
        if name not in known and not takes_any:
            known = sorted({*known, "read_only"})
            raise StoreOptionError(
                f"{scheme!r} has no option {name!r}{nearest(name, known)} Its options are {', '.join(known)}"
            )
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise StoreOptionError(f"{scheme!r}: {error}; write it as a URL, or give its parts") from error
