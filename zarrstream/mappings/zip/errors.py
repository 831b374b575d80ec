"""What the system's errors mean to the user of an archive: the table by which they become ours."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zarrstream.errors import (
    StoreAccessError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_Entry = tuple[type[StoreError], str, str]  # our error, what is wrong, and the remedy

_FULL = (
    StoreFullError,
    "has no room left on its disk",
    "free space there and try again; the archive is as it was, and so is what is pending",
)
_DENIED = (
    StoreAccessError,
    "may not be read or written by this process",
    "make the file and its folder accessible; to read needs no right to write",
)
_NO_FOLDER = (StoreUnavailableError, "has no folder", "make its folder, or mount what it is on")
_UNREACHABLE = (StoreUnavailableError, "cannot be read or written", "check the disk, the folder and the mount")
_TOO_MANY = (
    StoreUnavailableError,
    "cannot be opened, since too many files are open already",
    "close what is not needed, or raise the limit (ulimit -n)",
)
_LONG_NAME = (
    StoreError,
    "has too long a name",
    "shorten it by 20 bytes: files with longer names are made beside it while it is written",
)

_TABLE: dict[int | None, _Entry] = {
    errno.EACCES: _DENIED,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EMFILE: _TOO_MANY,
    errno.ENAMETOOLONG: _LONG_NAME,
    errno.ENFILE: _TOO_MANY,
    errno.ENOENT: _NO_FOLDER,
    errno.ENOSPC: _FULL,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
}


@contextmanager
def translating(path: str) -> Iterator[None]:
    """Turn the system's errors into ours, each with the archive's path and a remedy."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        kind, what, remedy = _TABLE.get(error.errno, _UNREACHABLE)
        raise kind(f"the zip archive {path!r} {what} ({error}): {remedy}") from error


def no_file(path: str) -> StoreOptionError:
    """Return the error for a path at which there is something that is no file."""
    what = "a folder" if os.path.isdir(path) else "no regular file"  # noqa: PTH112  # as everywhere in this back end
    return StoreOptionError(f"{path!r} is {what}, not a zip archive: name a file in it, or open a folder by its path")
