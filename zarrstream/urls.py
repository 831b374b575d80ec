"""A URL or a path, divided into a scheme and the rest; and names that are near to one another."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zarrstream.errors import StoreOptionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# One letter is a Windows drive. Everything behind "://" is taken as it is: "?", "#" and "%" are signs like any other.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+._\-]+)://(.*)", re.DOTALL)
_COLON = re.compile(r"([A-Za-z][A-Za-z0-9+._\-]+):/?(?!/)(.*)", re.DOTALL)
#: A name and a password in the part of a URL that names a host or bucket.
_USER = re.compile(r"(?<=://)[^/]*@|^[^/]*:[^/]*@")
_MASK = "***@"
FAULTY = "faulty+"


def file_path(rest: str, scheme: str = "sqlite", example: str = "data.db") -> str:
    """Return the path in a URL of a database file: three slashes are relative, four absolute, as SQLAlchemy has it."""
    if rest.startswith("/") and rest != "/":
        return rest[1:]
    raise StoreOptionError(
        f"'{scheme}://{masked(rest)}' names no file: write three slashes and a relative path ({scheme}:///{example}), "
        f"or four for an absolute one ({scheme}:////home/me/{example})"
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


def masked(text: str) -> str:
    """Return a text without the user names and passwords of the URLs in it."""
    return _USER.sub(_MASK, text)


def without_credentials(scheme: str, rest: str, *, account: bool = False) -> None:
    """Refuse the rest of a URL that holds a user name or a password.

    Parameters
    ----------
    scheme : str
        The URL's scheme.
    rest : str
        What follows ``scheme://``.
    account : bool, optional
        Whether ``container@account`` is a form of this scheme, so that only a password is refused.

    Raises
    ------
    StoreOptionError
        There is one. The message does not repeat it.
    """
    user, found, place = rest.partition("/")[0].rpartition("@")
    if found and (":" in user or not account):
        raise StoreOptionError(
            f"a {scheme}:// URL takes no credentials, and this one for {place!r} has some before '@': URLs are shown "
            f"in messages and logs. Pass them as options, or leave them to the environment"
        )


@dataclass(frozen=True)
class Place:
    """The scheme that a URL or path names, and the rest of it; None where the place is given by parts."""

    scheme: str
    rest: str | None


def text_of(url: Any) -> str:  # noqa: ANN401  # a user may pass anything
    """Return a URL or path as text: of a str, a path object, or a `UPath` of any file system.

    Raises
    ------
    StoreOptionError
        It is none of these, or empty.
    """
    try:
        # A UPath of a remote file system is no path of this machine: its text is its URL.
        text = str(url) if getattr(url, "protocol", "") and hasattr(url, "storage_options") else os.fsdecode(url)
    except TypeError:
        text = ""
    if not text:
        raise StoreOptionError(f"a store is named by a URL or a path, not by {url!r}")
    return text


#: The protocols of our file systems, as a `UPath` has them, and the schemes of their stores.
_OURS = {
    "lmdb": "lmdb",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb+srv",
    "postgres": "postgres",
    "postgresql": "postgresql",
    "shm": "shm",
    "sqlite": "sqlite",
    "zarrzip": "zip",
}


def parts_of(url: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401  # as for `text_of`
    """Return a `UPath` as a URL or scheme with the options that it holds; anything else as it is, without options.

    Raises
    ------
    StoreOptionError
        It leads into one of our databases: a store is the whole of it.
    """
    options = dict(getattr(url, "storage_options", None) or {})
    scheme = _OURS.get(str(getattr(url, "protocol", "")))
    if scheme is None or not options:
        return url, {"storage_options": options} if options else {}
    if "url" in options:  # server/database/path
        inner = url.path.partition("/")[2].partition("/")[2]
    else:
        root = str(options.get("path") or options.get("name") or "").strip("/")
        inner = str(url.path).strip("/").removeprefix(root)
    if inner := inner.strip("/"):
        raise StoreOptionError(
            f"{str(url)!r} leads into a store: open_store opens a whole one, and zarr.open(store, path={inner!r}) "
            "what is in it"
        )
    return options.pop("url", scheme), options


def parse(url: str | os.PathLike[str], schemes: Collection[str]) -> Place:
    """Return the scheme and the rest of a URL or path.

    Parameters
    ----------
    url : str or os.PathLike
        A URL, a scheme alone (its parts come as options), or the path of a folder. A folder that is called like a
        scheme is written ``./s3``.
    schemes : collection of str
        The schemes that are known.

    Raises
    ------
    StoreOptionError
        An empty text, an unknown scheme (the message names the nearest known one), or a known scheme with a colon and
        fewer than two slashes, which is no URL and would be a folder of that name.
    """
    text = text_of(url)
    if isinstance(url, str) and text in schemes:
        return Place(text, None)
    found = _URL.fullmatch(text)
    if found is None:
        _refuse_colon(text, schemes, is_path=not isinstance(url, str))
        return Place("file", text)
    scheme = found[1].lower()
    if scheme not in schemes:
        raise StoreOptionError(f"no store is known under {scheme!r}{_hint(scheme, schemes)}")
    return Place(scheme, found[2])


def _refuse_colon(text: str, schemes: Collection[str], *, is_path: bool) -> None:
    found = _COLON.fullmatch(text.removeprefix(FAULTY))
    if found is None or found[1].lower() not in schemes:
        return
    given = masked(f"{found[1]}://{found[2]}").replace("://", text[len(found[1]) : found.start(2)], 1)
    why = "a path object keeps one slash of a URL: pass the URL as text" if is_path else "a URL has '://'"
    example = _EXAMPLES.get(found[1].lower(), f"{found[1]}://…")
    raise StoreOptionError(
        f"{given!r} is no URL of a store: {why}, such as {example}; a folder of this name is given by an absolute path"
    )


_EXAMPLES = {
    "file": "file:///home/me/data.zarr",
    "lmdb": "lmdb:///data.lmdb",
    "memory": "memory://NAME",
    "shm": "shm://NAME",
    "sqlite": "sqlite:///data.db",
    "zip": "zip:///data.zip",
}


def _hint(scheme: str, schemes: Collection[str]) -> str:
    from fsspec.registry import known_implementations

    near = nearest(scheme, schemes)
    if near == "." and scheme in known_implementations:
        return (
            f"; zarr itself opens {scheme}:// URLs: zarr.open_array(url) gives an array that streams take. "
            f"Known here are {', '.join(sorted(schemes))}, and paths"
        )
    return f"{near} Known are {', '.join(sorted(schemes))}, and paths"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``; ``"."`` where none is near."""
    import difflib  # only an error needs it, and an import of zarrstream is short

    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
