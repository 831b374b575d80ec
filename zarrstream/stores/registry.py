"""From a URL, or a scheme with its parts, to a store: `open_store`, and how others add theirs."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from zarrstream import places
from zarrstream.errors import MissingExtraError, StoreOptionError
from zarrstream.stores.mapping import MappingStore

if TYPE_CHECKING:
    import os

Factory = Callable[..., "Store | MutableMapping[str, bytes]"]
_GROUP = "zarrstream.stores"
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


def open_store(url: str | os.PathLike[str], *, read_only: bool = False, **options: Any) -> Store:  # noqa: ANN401  # each back end has its own
    """Open the store that a URL or path names, or a scheme with its parts.

    Parameters
    ----------
    url : str or os.PathLike
        ``"sqlite:///rel.db"``, ``"sqlite:////abs.db"``, ``"memory://NAME"``, ``"file:///folder"``, the path of a
        folder; or a scheme alone, with its parts as options: ``open_store("sqlite", path="rel.db")``.
        `list_stores` tells the schemes.
    read_only : bool, optional
        Whether the store refuses writes.
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
    back_ends = _back_ends()
    place = places.parse(url, back_ends)
    back_end = back_ends[place.scheme]
    factory = _load(back_end)
    arguments: tuple[str, ...] = ()
    if place.rest is not None:
        whole_url = back_end.target is places.whole
        arguments = (str(url) if whole_url else back_end.target(place.rest),)
    takes_read_only = "read_only" in inspect.signature(factory).parameters
    given = {**options, "read_only": read_only} if takes_read_only else options
    _check(factory, back_end.scheme, arguments, given)
    made = factory(*arguments, **given)
    if isinstance(made, Store):
        return made
    return MappingStore(made, read_only=read_only)


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
            installed=_is_there(back_end.driver or back_end.factory.partition(":")[0]),
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
    if Path(path).is_file():
        raise StoreOptionError(f"{path!r} is a file, not a folder; if it is a SQLite database, write sqlite:///{path}")
    return LocalStore(path, read_only=read_only)


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
    known = {point.name: places.BackEnd(point.name, point.value, point.value) for point in entry_points(group=_GROUP)}
    for back_end in places.BUILT_IN:
        known.update(dict.fromkeys((back_end.scheme, *back_end.aliases), back_end))
    return {**known, **_registered}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # the package around it is not there
        return False


def _load(back_end: places.BackEnd) -> Factory:
    module, _, name = back_end.factory.partition(":")
    if back_end.extra is not None and back_end.driver is not None and not _is_there(back_end.driver):
        raise MissingExtraError(
            f"{back_end.scheme}:// needs the package {back_end.driver!r}: pip install 'zarrstream[{back_end.extra}]'"
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


def _check(factory: Factory, scheme: str, arguments: tuple[str, ...], options: dict[str, Any]) -> None:
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
                f"{scheme!r} has no option {name!r}{places.nearest(name, known)} Its options are {', '.join(known)}"
            )
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise StoreOptionError(f"{scheme!r}: {error}; write it as a URL, or give its parts") from error
