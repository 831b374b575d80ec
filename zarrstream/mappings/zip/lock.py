"""Who may write to an archive: one process at a time."""

from __future__ import annotations

import errno

from zarrstream.concurrency.file_lock import FileLock
from zarrstream.errors import StoreAccessError, StoreUnavailableError
from zarrstream.mappings.zip.errors import translating

#: How a lock's file that is another's is told, by Linux and macOS, by FreeBSD, and by `FileLock` itself.
_NOT_OURS = frozenset({errno.ELOOP, errno.EMLINK})


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
        self._path = path
        # Whoever may write to the archive may lock it, though another user's killed writer has left the file.
        self._lock = FileLock(name, mode=0o666, remove=True)

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._lock.held

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        StoreUnavailableError
            Another process has it.
        StoreAccessError
            Its file is a link to another file.
        """
        with translating(self._path):
            try:
                if self._lock.acquire(wait=False):
                    return
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
                raise StoreAccessError(
                    f"{self._lock.path!r}, by which writers of the zip archive {self._path!r} take turns, is a link to "
                    f"another file, which is not touched: remove the link, and ask who made it"
                ) from error
        raise StoreUnavailableError(
            f"{self._lock.holder()} is writing to the zip archive {self._path!r}, which takes one writer at a time: "
            f"wait until it has closed the store"
        )

    def release(self) -> None:
        """Give the lock back and remove its file."""
        with translating(self._path):
            self._lock.release()
