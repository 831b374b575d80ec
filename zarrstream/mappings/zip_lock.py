"""Who may write to an archive: a lock beside it, which the system takes back from a process that dies."""

from __future__ import annotations

import os
import platform
from contextlib import suppress

from zarrstream.errors import StoreUnavailableError
from zarrstream.mappings.zip_errors import translating

try:
    import fcntl
except ImportError:  # Windows: writers are not kept apart there
    fcntl = None  # type: ignore[assignment]


class WriterLock:
    """The lock on one archive, for this process.

    Parameters
    ----------
    name : str
        The lock's file. It is there while somebody writes, and after a writer was killed, when it locks nothing.
    path : str
        The archive's path, for messages.
    """

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        StoreUnavailableError
            Another process has it.
        """
        with translating(self._path):
            while self._descriptor is None:
                descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    self._lock(descriptor)
                    if self._is_current(descriptor):
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
                        self._descriptor, descriptor = descriptor, -1
                finally:
                    if descriptor >= 0:
                        os.close(descriptor)

    def release(self) -> None:
        """Give the lock back and remove its file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                with translating(self._path), suppress(FileNotFoundError):
                    os.unlink(self._name)  # noqa: PTH108  # while it is held: afterwards it may be another's
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """Let go of what a forked child has inherited; the parent's lock stays."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise StoreUnavailableError(
                f"{holder} is writing to the zip archive {self._path!r}, which takes one writer at a time: "
                f"wait until it has closed the store"
            ) from error

    def _is_current(self, descriptor: int) -> bool:
        """Return whether the locked file is the one at the path: its last holder may have removed it meanwhile."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._name))  # noqa: PTH116  # paths are plain text
        except FileNotFoundError:
            return False
