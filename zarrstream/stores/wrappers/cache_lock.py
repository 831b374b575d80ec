"""The lock of a cache, and its epoch: both are one file in the cache's own place, which all who share it see alike."""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from zarrstream.concurrency.file_lock import FileLock
from zarrstream.concurrency.fork import on_fork

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_FOLLOW = os.utime not in os.supports_follow_symlinks  # Windows: there it cannot do otherwise


class CacheLock:
    """One holder at a time, among the threads and processes that share a cache.

    Parameters
    ----------
    path : str
        The lock's file. Its place depends on nothing but the cache's: not on the environment of a process.

    Notes
    -----
    The file's time of modification is the cache's *epoch*, a part of every entry's name. `end_epoch` sets it to another
    one, and nothing that was kept is found any more. That takes no room on a disk, no lock and no database: it is what
    is left to do for a cache that cannot be told of a change.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = FileLock(path, sign=False)  # a signature would be a new time of modification
        self._reset()
        _every.add(self)

    def _reset(self) -> None:
        self._threads = threading.RLock()
        self._holder: int | None = None

    def run(self, work: Callable[[], T], *, wait: bool = True) -> T | None:
        """Call a function while the lock is held; None if that takes waiting and ``wait`` is False.

        Raises
        ------
        OSError
            The lock's file cannot be made or opened.
        """
        if self._holder == threading.get_ident():
            return work()
        if not wait and self._holder is not None:
            return None
        with self._threads:  # a C lock: no signal handler's exception comes between taking and guarding it
            try:
                self._holder = threading.get_ident()
                return work() if self._file.acquire(wait=wait) else None
            finally:
                self._holder = None
                try:
                    self._file.release()
                finally:
                    self._file.release()  # where an exception of a signal handler has ended the first

    def epoch(self) -> int | None:
        """Return the present epoch; None where nothing was ever kept."""
        try:
            return os.stat(self.path, follow_symlinks=False).st_mtime_ns  # noqa: PTH116  # at each read: a Path costs more
        except (FileNotFoundError, NotADirectoryError):
            return None

    def begin_epoch(self) -> None:
        """Make the file where it is missing; the caller need not hold the lock.

        Raises
        ------
        OSError
            It cannot be made; `FileNotFoundError` where the folder that it lies in is missing.
        """
        os.close(os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o600))

    def end_epoch(self) -> None:
        """Begin another epoch.

        Raises
        ------
        OSError
            The file may be neither changed nor removed.
        """
        # Any moment of 60 years: a clock, however coarse or set back, would repeat itself.
        moment = secrets.randbelow(60 * 365 * 86_400) * 10**9
        try:
            os.utime(self.path, ns=(moment, moment), follow_symlinks=_FOLLOW)
        except OSError:
            with suppress(FileNotFoundError, NotADirectoryError):  # where there is none, nothing is kept
                os.unlink(self.path)  # noqa: PTH108  # as above


_every: WeakSet[CacheLock] = WeakSet()


def _in_child() -> None:
    for lock in list(_every):
        lock._reset()  # noqa: SLF001  # of this file; another thread of the parent may have held it


on_fork(91, child=_in_child)
