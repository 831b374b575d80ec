"""What LMDB's errors mean to a user: the table by which they become ours."""

from __future__ import annotations

import errno
import os

from zarrstream.concurrency.process_limits import file_size_is_limited
from zarrstream.errors import (
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

_Entry = tuple[type[StoreError], str, str]  # our error, what is wrong, and the remedy

_CORRUPT = (
    StoreCorruptError,
    "is damaged or is no LMDB database",
    "check the path; restore a damaged database from a copy, or remove it and write anew",
)
_ACCESS = (
    StoreAccessError,
    "may not be used so by this process",
    "make the folder and lock.mdb (in which readers register) writable, and data.mdb to write; or read a copy",
)
_UNREACHABLE = (StoreUnavailableError, "cannot be read or written", "check the disk, the folder and the mount")
_BATCH = (StoreError, "cannot take so much in one transaction", "write smaller batches")
_READERS = (
    StoreUnavailableError,
    "has no free slot for one more reader",
    "let other readers end; a database keeps the number of slots (1024) with which it was first opened",
)
_MEMORY = (
    StoreError,
    "cannot be mapped into this process's address space",
    "lift the limit (ulimit -v), close other stores, or open it with a smaller map_size",
)
_FULL = (StoreFullError, "has no room left", "free space there; nothing of the failed write is stored")
_LIMITED = (
    StoreFullError,
    "would be larger than this process may make a file",
    "raise the limit (ulimit -f); nothing of the failed write is stored",
)
_UNKNOWN = (StoreError, "failed", "see the error that this one was raised from")
_OPEN_TWICE = (
    StoreUnavailableError,
    "is open in this process already, by code other than zarrstream, and LMDB forbids a second time",
    "close that lmdb.Environment first",
)

# By the name of py-lmdb's exception.
_TABLE: dict[str, _Entry] = {
    "BadTxnError": _BATCH,
    "BadValsizeError": (StoreError, "cannot hold a value of this size", "4 GiB is the most: use smaller chunks"),
    "CorruptedError": _CORRUPT,
    "DiskError": _FULL,
    "IncompatibleError": _CORRUPT,
    "InvalidError": _CORRUPT,
    "InvalidParameterError": _UNREACHABLE,
    "LockError": _UNREACHABLE,
    "MapFullError": _FULL,
    "MemoryError": _MEMORY,
    "PageFullError": _CORRUPT,
    "PageNotFoundError": _CORRUPT,
    "PanicError": _UNREACHABLE,
    "ReadersFullError": _READERS,
    "ReadonlyError": _ACCESS,
    "TxnFullError": _BATCH,
    "VersionMismatchError": _CORRUPT,
}
_SYSTEM: dict[int, _Entry] = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: _ACCESS,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _LIMITED,
    errno.ENOENT: _UNREACHABLE,
    errno.ENOTDIR: _UNREACHABLE,
    errno.EIO: _UNREACHABLE,
    errno.ESTALE: _UNREACHABLE,
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: (StoreError, "cannot be opened by a process with so many files", "close others, or raise ulimit -n"),
}
_LITTLE_BYTES = 1 << 16


def translated(error: Exception, path: str, what: str) -> StoreError:
    """Return our error for one of LMDB's, or of the system's; the caller raises it ``from`` the original.

    Parameters
    ----------
    error : Exception
        What was raised.
    path : str
        The database's folder.
    what : str
        What users call the database.
    """
    kind, wrong, remedy = _entry(error)
    if _is(error, errno.EIO) and _has_no_room(path):
        kind, wrong, remedy = _FULL  # LMDB's word for a write that came to the end of the room on its way
    elif _is(error, errno.EIO) and file_size_is_limited():
        kind, wrong, remedy = _LIMITED  # and of what this process may write
    if (kind, wrong, remedy) == _FULL:
        size = file_system_bytes(path)
        wrong += f" (its file system holds {size:,} bytes)" if size is not None else ""
    return kind(f"{what} {wrong} ({error}): {remedy}")


def is_open_twice(error: Exception) -> bool:
    """Return whether LMDB says that the process has the database open already."""
    return "already open in this process" in str(error)


def _entry(error: Exception) -> _Entry:
    if is_open_twice(error):
        return _OPEN_TWICE
    named = _TABLE.get(type(error).__name__)
    if named is not None:
        return named
    return next((entry for number, entry in _SYSTEM.items() if _is(error, number)), _UNKNOWN)


def _is(error: Exception, number: int) -> bool:
    """Return whether an error is this one of the system's, which older releases of py-lmdb tell by its text alone."""
    return os.strerror(number) in str(error)


def file_system_bytes(path: str) -> int | None:
    """Return the size of the file system that a folder is on, in bytes; None where it cannot be told."""
    try:
        found = os.statvfs(path)
    except (OSError, AttributeError):  # gone, or a system that has no such call
        return None
    return found.f_blocks * found.f_frsize


def _has_no_room(path: str) -> bool:
    try:
        found = os.statvfs(path)
    except (OSError, AttributeError):  # as above
        return False
    return found.f_bavail * found.f_frsize < _LITTLE_BYTES
