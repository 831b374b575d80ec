"""The folder that an LMDB environment lies in."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from zarrstream.errors import StoreUnavailableError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_LOCK_BYTES = 17 * 4096  # 1024 readers' slots of 64 bytes, and the header


class Folder:
    """Where an environment lies.

    Parameters
    ----------
    path : str
        The absolute path, links resolved.
    what : str
        What users call the database.
    """

    mode = 0o666  # of the files, less the umask

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what

    def entered(self, *, create: bool) -> AbstractContextManager[object]:
        """Return what is held while the environment is opened; with ``create`` it may make what the folder lies in."""
        return nullcontext(create)

    def make(self) -> None:
        """Make the folder, in one that is there."""
        try:
            os.mkdir(self.path)  # noqa: PTH102  # text throughout: no path is taken apart here
        except FileExistsError:
            return
        except FileNotFoundError as error:
            raise StoreUnavailableError(
                f"{self.what} has no folder to lie in: make '{os.path.dirname(self.path)}', or mount what it is on"  # noqa: PTH120
            ) from error

    def left(self) -> None:
        """Do what is due after the environment was closed."""


def reserve(path: str, mode: int) -> None:
    """Give a new lock file its room on the disk: written to as memory, it would be a SIGBUS where there is none left.

    Parameters
    ----------
    path : str
        The lock file. One that is there is not even opened: closing it would drop the locks that other code in this
        process may hold on it.
    mode : int
        Its permissions, less the umask.

    Raises
    ------
    OSError
        There is no room, or the path is a link: LMDB would follow it, and write into the file that it leads to.
    """
    if os.path.islink(path):  # noqa: PTH114  # text, as above
        raise OSError(errno.ELOOP, "is a link, which is not followed: remove it", path)
    if not hasattr(os, "posix_fallocate") or _length(path):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), mode)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108  # text, as above
            raise
    finally:
        os.close(descriptor)


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # text, as above
    except FileNotFoundError:
        return 0
