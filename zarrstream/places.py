"""What a URL names, or a scheme with its parts: which back end, in which place. The one parser of all of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zarrstream.errors import StoreOptionError

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
    driver : str or None
        The module whose presence shows that the driver is installed.
    target : callable
        From what follows ``scheme://`` to the factory's first argument; `whole` gives it the whole URL.
    """

    scheme: str
    title: str
    factory: str
    aliases: tuple[str, ...] = ()
    extra: str | None = None
    driver: str | None = None
    target: Callable[[str], str] = whole


BUILT_IN: tuple[BackEnd, ...] = (
    BackEnd("file", "a folder: zarr's LocalStore", "zarrstream.stores.registry:open_folder", target=folder_path),
    BackEnd("memory", "this process's memory, by name", "zarrstream.stores.registry:open_memory", target=bare_name),
    BackEnd("sqlite", "one SQLite file", "zarrstream.mappings.sqlite:SQLiteMapping", target=file_path),
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
