"""From a URL, or a scheme with its parts, to a store: `open_store`, and how others add theirs."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, StorePath

from zarrstream import places, urls
from zarrstream.errors import StoreOptionError
from zarrstream.mappings.base import ByteMapping
from zarrstream.stores.mapping import MappingStore
from zarrstream.stores.wrappers.cached import CachedStore
from zarrstream.stores.wrappers.chunk_cache import ChunkCache
from zarrstream.stores.wrappers.interceptor import store_of
from zarrstream.stores.wrappers.resilient import ResilientStore
from zarrstream.stores.wrappers.retry import Retry

_GROUP = "zarrstream.stores"
_REQUESTS = 64  # at once, at a cloud, unless the user says otherwise
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]+")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_registered: dict[str, places.BackEnd] = {}


@dataclass(frozen=True)
class StoreInfo:
    """What `list_stores` says of one kind of store.

    Attributes
    ----------
    scheme : str
        The name in URLs, and by parts.
    title : str
        What it is, in a few words.
    installed : bool
        Whether its driver is there.
    extra : str or None
        The extra that brings the driver: ``pip install 'zarrstream[extra]'``. None where it needs none.
    aliases : tuple of str
        Other names of the same.
    """

    scheme: str
    title: str
    installed: bool
    extra: str | None = None
    aliases: tuple[str, ...] = ()


def open_store(
    url: str | os.PathLike[str] | Store | StorePath,
    *,
    read_only: bool = False,
    retry: Retry | Literal["default"] | None = "default",
    max_concurrency: int | Literal["default"] | None = "default",
    rate: float | None = None,
    cache: str | os.PathLike[str] | ChunkCache | MappingStore | ByteMapping | None = None,
    trace: bool = False,
    **options: Any,  # noqa: ANN401  # each back end has its own
) -> Store:
    """Open the store that a URL or path names, or a scheme with its parts.

    Parameters
    ----------
    url : str, os.PathLike, Store or StorePath
        ``"sqlite:///rel.db"``, ``"sqlite:////abs.db"``, ``"memory://NAME"``, ``"file:///folder"``, the path of a
        folder, a ``UPath``; or a scheme alone, with its parts as options: ``open_store("sqlite", path="rel.db")``.
        `list_stores` tells the schemes. A store that there is already gets what is asked for around it, and no retries
        or limits by default. ``"faulty+"`` before any of them puts the mock in between, with the options
        ``faults`` and ``seed``: see `zarrstream.faults.FaultyMapping`.
    read_only : bool, optional
        Whether the store refuses writes.
    retry : Retry or None, optional
        How often a call that fails is made again, and how long it may take. By default ``Retry()`` for S3, Google
        Cloud Storage and Azure, and None, once, for all others, whose drivers have time-outs of their own.
    max_concurrency : int or None, optional
        How many calls may be under way at the store's place, over all stores, threads and event loops of this
        process. By default 64 for S3, Google Cloud Storage and Azure, and None, any number, for all others.
    rate : float or None, optional
        How many calls may begin there per second; None for any number.
    cache : str, ChunkCache, MappingStore or ByteMapping, optional
        Where chunks are kept that have been read: ``"shm://NAME"``, ``"sqlite:///cache.db"``, ``"lmdb:///folder"``,
        with a bound of 1 GiB; or a `ChunkCache`, which has a bound of its own. See
        `zarrstream.stores.wrappers.cached.CachedStore` for what is assumed.
    trace : bool, optional
        Whether OpenTelemetry sees each call: see `zarrstream.stores.wrappers.traced.TracedStore`.
    **options
        Those of the back end, such as ``durability="full"`` of `zarrstream.mappings.sqlite.SQLiteMapping`.

    Returns
    -------
    zarr.abc.store.Store
        The store. Nothing is made in its place until something is written.

    Raises
    ------
    StoreOptionError
        An unknown scheme, an unknown option, or a value that no store takes: the message names it and the nearest
        known one.
    MissingExtraError
        The back end's driver is not installed: the message says how to install it.
    """
    if not isinstance(read_only, bool):
        raise StoreOptionError(f"read_only is True or False, not {read_only!r}")
    is_faulty = isinstance(url, str) and url.startswith(urls.FAULTY)
    place: Any = str(url).removeprefix(urls.FAULTY) if is_faulty else url
    if isinstance(place, (Store, StorePath)):
        store, is_remote = _given(place, read_only, options), False
    else:
        place, own = urls.parts_of(place)
        options = {**own, **options}
        store, is_remote = _bare(place, read_only, _without_faults(options) if is_faulty else options)
    if is_faulty:
        store = places.mock()(store, options.get("faults", ()), options.get("seed", 0))
    if retry == "default":
        retry = Retry() if is_remote else None
    if max_concurrency == "default":
        max_concurrency = _REQUESTS if is_remote else None
    if not (retry is None and max_concurrency is None and rate is None):
        store = ResilientStore(store, retry=retry, max_concurrency=max_concurrency, rate=rate)
    if cache is not None:
        store = _cached(store, cache)
    return _traced(store) if trace else store


def _given(given: Store | StorePath, read_only: bool, options: dict[str, Any]) -> Store:  # noqa: FBT001  # as `open_store` has it
    """Return a store that there is already."""
    if options:
        raise StoreOptionError(f"{given} is a store already, and takes no options: {', '.join(sorted(options))}")
    store = store_of(given)
    return store.with_read_only(read_only=True) if read_only and not store.read_only else store


def _cached(store: Store, cache: str | os.PathLike[str] | ChunkCache | MappingStore | ByteMapping) -> Store:
    is_url = isinstance(cache, (str, os.PathLike)) or hasattr(cache, "storage_options")
    kept: object = open_store(cache) if is_url else cache  # type: ignore[arg-type]  # it is one
    if isinstance(kept, MappingStore):
        kept = kept.mapping
    if isinstance(kept, ByteMapping):
        kept = ChunkCache(kept)
    if not isinstance(kept, ChunkCache):
        raise StoreOptionError(
            f"a cache is the URL of a mapping of this machine (shm://NAME, sqlite:///cache.db, lmdb:///folder) "
            f"or a ChunkCache, not {cache!r}"
        )
    return CachedStore(store, kept)


def _traced(store: Store) -> Store:
    from zarrstream.stores.wrappers.traced import TracedStore

    return TracedStore(store)


def _bare(url: str | os.PathLike[str], read_only: bool, options: dict[str, Any]) -> tuple[Store, bool]:  # noqa: FBT001  # as `open_store`
    """Return a back end's own store, and whether it is a cloud's."""
    back_ends = _back_ends()
    place = urls.parse(url, back_ends)
    back_end = back_ends[place.scheme]
    arguments: tuple[str, ...] = ()
    if place.rest is not None:
        if back_end in places.BUILT_IN and not back_end.takes_credentials:
            urls.without_credentials(place.scheme, place.rest, account=back_end.scheme == "az")
        arguments = (urls.text_of(url) if back_end.target is urls.whole else back_end.target(place.rest),)
    if back_end.is_path:
        _refuse_inner(back_end.scheme, arguments[0] if arguments else options.get("path"))
    made = places.make(back_end, arguments, options, read_only=read_only)
    if isinstance(made, Store):
        return made, hasattr(made, "limited_place")
    return MappingStore(made, read_only=read_only), False


def _refuse_inner(scheme: str, path: Any) -> None:  # noqa: ANN401  # as the user gave it
    """Refuse a path that leads into a file, as ``zarr.open`` has them: here the path in the store is an argument."""
    try:
        given = Path(os.fsdecode(path))
    except (TypeError, ValueError):
        return  # the back end says what is wrong with it
    if given.parent.is_dir():
        return
    database = next((parent for parent in given.parents if parent.is_file()), None)
    if database is not None:
        inner = given.relative_to(database).as_posix()
        raise StoreOptionError(
            f"{str(given)!r} leads into the file {str(database)!r}: open_store opens a whole store, "
            f"open_store('{scheme}:///{database}'), and zarr.open(store, path={inner!r}) what is in it"
        )


def _without_faults(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in {"faults", "seed"}}


def register_store(scheme: str, factory: str, *, replace: bool = False) -> None:
    """Make a kind of store known to `open_store`, for this process.

    A package does the same for every process by an entry point in the group ``zarrstream.stores``, whose name is the
    scheme and whose value is the factory.

    Parameters
    ----------
    scheme : str
        The name in URLs, and by parts: two or more small letters, digits, ``+``, ``.`` and ``-``.
    factory : str
        ``"package.module:factory"``, imported on first use. It is called with the URL as it was given (by parts:
        without), the options by name, and ``read_only`` if its signature has it. It returns a zarr Store, or a
        mapping of bytes.
    replace : bool, optional
        Whether it may take the name of a known one.

    Raises
    ------
    StoreOptionError
        A scheme that is known already, or no scheme; a factory that is not written so.
    """
    if not _SCHEME.fullmatch(scheme):
        raise StoreOptionError(f"a scheme is two or more small letters, digits, '+', '.' and '-', not {scheme!r}")
    if not _FACTORY.fullmatch(factory):
        raise StoreOptionError(f"a factory is written 'package.module:factory', not {factory!r}")
    if not replace and scheme in _back_ends():
        raise StoreOptionError(f"the scheme {scheme!r} is known already: choose another, or pass replace=True")
    _registered[scheme] = places.BackEnd(scheme, factory, factory)


def list_stores() -> list[StoreInfo]:
    """Return what `open_store` knows, sorted by scheme, without importing any of it."""
    unique = {back_end.scheme: back_end for back_end in _back_ends().values()}
    return [
        StoreInfo(
            scheme=scheme,
            title=back_end.title,
            installed=any(map(places.is_there, back_end.drivers or (back_end.factory.partition(":")[0],))),
            extra=back_end.extra,
            aliases=back_end.aliases,
        )
        for scheme, back_end in sorted(unique.items())
    ]


def open_folder(path: str, *, read_only: bool = False) -> LocalStore:
    """Return zarr's own store for a folder.

    Parameters
    ----------
    path : str
        The folder.
    read_only : bool, optional
        Whether to refuse writes.

    Raises
    ------
    StoreOptionError
        ``path`` is a file.
    """
    given = Path(path)
    if given.is_file():
        raise StoreOptionError(f"{path!r} is a file, not a folder{_content_of(given)}")
    if given.suffix in {".zip", ".ozx"} and not given.exists():
        raise StoreOptionError(
            f"{path!r} is an archive by its name: write zip:///{path}, or make the folder first if it is to be one"
        )
    # Absolute, once: after a change of the working folder it would be another one, and an array in it all fill values.
    return LocalStore(given.absolute(), read_only=read_only)


def _content_of(file: Path) -> str:
    """Return the URL of a file that is a store, by its first bytes."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(16)
    except OSError:  # it may not be read: what it is stays unsaid
        return ""
    if beginning == b"SQLite format 3\0":
        return f": it is a SQLite database, sqlite:///{file}"
    if beginning[:4] in {b"PK\3\4", b"PK\5\6"}:
        return f": it is a zip archive, zip:///{file}"
    return f"; if it is to be a SQLite database, write sqlite:///{file}, and zip:///{file} for an archive"


def open_memory(name: str, *, read_only: bool = False) -> FsspecStore:
    """Return what ``zarr.open("memory://NAME")`` opens: fsspec's memory file system, which all of this process share.

    Parameters
    ----------
    name : str
        The name, and a path in it if wanted.
    read_only : bool, optional
        Whether to refuse writes.
    """
    return FsspecStore.from_url(f"memory://{name}", read_only=read_only)


def _back_ends() -> dict[str, places.BackEnd]:
    """Return all by scheme and alias: registered ones before our own, and ours before those of other packages."""
    known = dict(_of_packages(tuple(sys.path)))
    for back_end in places.BUILT_IN:
        known.update(dict.fromkeys((back_end.scheme, *back_end.aliases), back_end))
    return {**known, **_registered}


@lru_cache(maxsize=1)
def _of_packages(_path: tuple[str, ...]) -> dict[str, places.BackEnd]:
    """Return those of installed packages. Read once: it opens a file of every package that is installed."""
    return {point.name: places.BackEnd(point.name, point.value, point.value) for point in entry_points(group=_GROUP)}
