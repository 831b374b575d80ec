"""A lock that processes share: `flock` on a file, given back by the system when its holder dies."""

from __future__ import annotations

import errno
import logging
import os
import platform
from contextlib import suppress
from weakref import WeakSet

from zarrstream.concurrency.fork import on_fork

try:
    import fcntl
except ImportError:  # Windows: holders are not kept apart there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("zarrstream")

#: What `flock` raises on file systems without locks: Lustre without ``-o flock``, some FUSE and network mounts.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})


class FileLock:
    """An exclusive lock between processes, on a file that is made where it is missing.

    Parameters
    ----------
    path : str
        The lock's file. A symbolic link is refused, and a file with a second name: somebody else may have chosen what
        would be locked and written into.
    mode : int, default 0o600
        The permissions of a file that is made anew.
    remove : bool, default False
        Whether `release` removes the file, while the lock is still held.
    sign : bool, default True
        Whether the holder writes its process and host into the file, which changes the time of its modification.

    Notes
    -----
    *Processes.* The lock belongs to the process that took it: a forked child closes its copy at once, so that the lock
    ends with its holder. *Threads.* One thread uses it at a time: hold a `threading.Lock` around it. *Interruption.* An
    exception of a signal handler during `acquire` leaves the lock free; `release` may be called twice. *File systems
    without locks.* The lock is taken as granted there, after a warning.
    """

    def __init__(self, path: str, *, mode: int = 0o600, remove: bool = False, sign: bool = True) -> None:
        self.path = path
        self._mode = mode
        self._remove = remove
        self._signs = sign
        self._descriptor: int | None = None
        self._held = False
        _every.add(self)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._held

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock and write the holder's process and host into its file.

        Parameters
        ----------
        wait : bool, default True
            Whether to wait for another holder.

        Returns
        -------
        bool
            False if another process holds it and ``wait`` is False.

        Raises
        ------
        OSError
            The file cannot be made or opened, or is a link.
        """
        while not self._held:
            self._close()  # what an interrupted release has left
            try:
                # Kept at once: whatever is raised from here on, `_close` finds it.
                self._descriptor = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), self._mode
                )
                self._refuse_others_file()
                if not _flock(self._descriptor, self.path, wait=wait):
                    self._close()
                    return False
                if self._is_current():
                    if self._signs:
                        self._sign()
                    self._held = True
                else:
                    self._close()  # its last holder removed the file meanwhile
            except BaseException:
                self._close()
                raise
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        # Not held from here on: an exception of a signal handler may come after the file is gone and before the end.
        # No function of Python is called before that, within which one could come.
        held, self._held = self._held, False
        try:
            if held and self._remove:
                os.unlink(self.path)  # noqa: PTH108  # while it is locked: afterwards it may be another's
        except FileNotFoundError:
            pass
        finally:
            self._close()

    def holder(self) -> str:
        """Return who wrote into the lock's file last, such as ``"process 17 on host"``, or ``"another process"``."""
        with suppress(OSError):  # it may be gone by now, or be another user's: the message does without
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
            try:
                return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            finally:
                os.close(descriptor)
        return "another process"

    def forget(self) -> None:
        """Close what a forked child has inherited; the parent's lock stays."""
        descriptor, self._descriptor, self._held = self._descriptor, None, False
        if descriptor is not None:
            os.close(descriptor)

    def _close(self) -> None:
        self._held = False
        if (descriptor := self._descriptor) is not None:
            # Said explicitly: a process that is being forked at this moment has the descriptor, too.
            if fcntl is not None:
                try:  # noqa: SIM105  # no function of Python in between, within which an exception could come
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                except OSError:
                    pass  # a file system without locks, where none was taken
            # Forgotten no earlier: whatever a signal handler raises above, the next call closes it.
            self._descriptor = None
            os.close(descriptor)

    def _refuse_others_file(self) -> None:
        assert self._descriptor is not None  # noqa: S101  # `acquire` has just opened it
        if os.fstat(self._descriptor).st_nlink > 1:  # it has another name: who made this one chose what is written to
            raise OSError(errno.EMLINK, "is another file's second name, which is not written to", self.path)

    def _is_current(self) -> bool:
        assert self._descriptor is not None  # noqa: S101  # `acquire` has just opened it
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def _sign(self) -> None:
        assert self._descriptor is not None  # noqa: S101  # as above
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)

    def __del__(self) -> None:
        self._close()


def _flock(descriptor: int, path: str, *, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # one of `_UNSUPPORTED`
        if error.errno not in _UNSUPPORTED:
            raise
        if (folder := path.rpartition(os.sep)[0]) not in _told:  # a stream takes a lock for each chunk that it merges
            _told.add(folder)
            logger.warning(
                "the file system of %r has no locks (%s): nothing keeps a second writer away", path, error.strerror
            )
    return True


_told: set[str] = set()
_every: WeakSet[FileLock] = WeakSet()


def _in_child() -> None:
    for lock in list(_every):
        lock.forget()


on_fork(90, child=_in_child)
