"""The files of one SQLite database: which one is at the path, and whose log lies beside it."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from zarrstream.mappings.sqlite.errors import unopenable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from zarrstream.concurrency.per_thread import ThreadLinks

Identity: TypeAlias = tuple[int, ...]


def identity_of(path: str) -> Identity | None:
    """Return what tells the file at a path from any other one; None where there is none.

    Raises
    ------
    StoreError
        The path cannot be looked at.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  # at each call: pathlib takes three times as long
    except FileNotFoundError:
        return None
    except OSError as error:
        kind, what, remedy = unopenable(path)
        raise kind(f"the SQLite database {path!r} {what} ({error}): {remedy}") from error
    return found.st_dev, found.st_ino


def version_of(path: str) -> Identity:
    """Return what tells the file from what it was before a change; empty where a log or journal is, or no file."""
    if any(os.path.exists(path + suffix) for suffix in ("-wal", "-journal")):  # noqa: PTH110  # as above
        return ()
    try:
        found = os.stat(path)  # noqa: PTH116  # as above
    except OSError:  # there is no file, or none that may be looked at: the caller's next step says which
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def log_of(path: str) -> Identity:
    """Return what tells the write-ahead log beside a file from any other one; empty where there is none."""
    try:
        found = os.stat(f"{path}-wal")  # noqa: PTH116  # as above
    except OSError:  # none is there, or none that may be looked at
        return ()
    return found.st_dev, found.st_ino


_users: dict[str, weakref.WeakSet[ThreadLinks[Any]]] = {}


def watch(path: str, links: ThreadLinks[Any]) -> None:
    """Have the connections of a mapping known to all others in this process on the same path."""
    _users.setdefault(path, weakref.WeakSet()).add(links)


def remove_stale_log(path: str, there: Identity) -> None:
    """Remove the log at a path, if it belongs to a file that was there before and was replaced.

    SQLite finds a log by its name. That of the old file would be read as the new one's, and written into it. It is the
    old one's for certain where a connection of this process, which is still open, has both: as long as it is open,
    no other log can get the same number.
    """
    log = log_of(path)
    if not log:
        return
    every: Iterable[ThreadLinks[Any]] = list(_users.get(path, ()))
    for links in every:
        for link in links.snapshot():
            if link.connection is not None and link.log == log and link.identity[:2] != there[:2]:
                for suffix in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(path + suffix)  # noqa: PTH108  # as above
                return
