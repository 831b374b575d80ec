"""What SQLite's errors mean to a user: the table by which they become ours."""

from __future__ import annotations

import os

from zarrstream.concurrency.process_limits import file_size_is_limited, no_descriptor_is_left
from zarrstream.errors import (
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreUnavailableError,
)

_Entry = tuple[type[Exception], str, str]  # our error, what is wrong, and the remedy

_LOCKED = (
    StoreUnavailableError,
    "is locked: another process held it for longer than the busy_timeout",
    "let the other writer finish, or raise busy_timeout",
)
_READ_ONLY = (
    StoreAccessError,
    "may not be written by this process",
    "make the file and its folder writable, or open it with read_only=True",
)
_FULL = (StoreFullError, "has no room left on its disk", "free space there; nothing of the failed write is stored")
_CORRUPT = (
    StoreCorruptError,
    "is damaged or is no SQLite database",
    "check the path; recover a damaged file with the sqlite3 shell's .recover",
)
_UNREACHABLE = (StoreUnavailableError, "cannot be read or written", "check the disk, the folder and the mount")
_TOO_MANY = (
    StoreUnavailableError,
    "cannot be opened by a process with so many open files",
    "close what is not needed, or raise the limit (ulimit -n)",
)
_LIMITED = (
    StoreFullError,
    "would be larger than this process may make a file",
    "raise the limit (ulimit -f); nothing of the failed write is stored",
)
_LONG_NAME = (
    StoreOptionError,
    "has a name too long for the files that SQLite makes beside it",
    "shorten it by 8 bytes, the length of '-journal'",
)
_TOO_BIG = (StoreError, "cannot hold a value of this size", "SQLite's limit is 1 GB: use smaller chunks or shards")

# By SQLite's primary result code. Extended codes (SQLITE_BUSY_SNAPSHOT) begin with their primary one.
_TABLE: dict[str, _Entry] = {
    "SQLITE_AUTH": _READ_ONLY,
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_CANTOPEN": _UNREACHABLE,
    "SQLITE_CORRUPT": _CORRUPT,
    "SQLITE_FULL": _FULL,
    "SQLITE_IOERR": _UNREACHABLE,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_NOTADB": _CORRUPT,
    "SQLITE_PERM": _READ_ONLY,
    "SQLITE_PROTOCOL": _LOCKED,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_TOOBIG": _TOO_BIG,
}
_UNKNOWN = (StoreError, "failed", "see the error that this one was raised from")
# Codes that pass by themselves. SQLite waits them out in its busy handler, but not at every place: while a log is
# recovered, while the journal mode changes, and while the last connection of another process cleans up.
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")


def passes(error: Exception) -> bool:
    """Return whether the same call may succeed a moment later."""
    return _name(error).startswith(_PASSING)


def translated(error: Exception, path: str) -> Exception:
    """Return our error for one of SQLite's; the caller raises it ``from`` the original."""
    if isinstance(error, OverflowError):
        entry: _Entry = _TOO_BIG
    elif (primary := "_".join(_name(error).split("_")[:2])) == "SQLITE_CANTOPEN":
        entry = unopenable(path)
    elif _name(error) == "SQLITE_IOERR_WRITE" and file_size_is_limited():
        entry = _LIMITED
    elif not primary and "UTF-8" in str(error):  # a key that another program wrote; the driver gives it no code
        entry = _CORRUPT
    else:
        entry = _TABLE.get(primary, _UNKNOWN)
    kind, what, remedy = _read_only(path) if entry is _READ_ONLY else entry
    return kind(f"the SQLite database {path!r} {what} ({error}): {remedy}")


def unopenable(path: str) -> _Entry:
    """Return the table's entry for a path at which SQLite can open nothing."""
    # os.path throughout: pathlib's questions raise where a folder on the way may not be entered.
    folder = os.path.dirname(path)  # noqa: PTH120
    if os.path.isdir(path):  # noqa: PTH112
        return StoreOptionError, "is a folder", "name a file in it, or open the folder by its plain path"
    if not os.path.isdir(folder):  # noqa: PTH112
        return StoreUnavailableError, "has no folder", f"make the folder '{folder}', or mount what it is on"
    unreadable = os.path.exists(path) and not os.access(path, os.R_OK)  # noqa: PTH110
    if unreadable or not os.access(folder, os.W_OK | os.X_OK):
        return _READ_ONLY
    if len(os.fsencode(os.path.basename(path))) + len("-journal") > os.pathconf(folder, "PC_NAME_MAX"):  # noqa: PTH119
        return _LONG_NAME
    return _TOO_MANY if no_descriptor_is_left() else _UNREACHABLE


def _read_only(path: str) -> _Entry:
    """Return the table's entry for a file that may not be written, and name what else of it may not."""
    sides = [f"'{path}{suffix}'" for suffix in ("-wal", "-shm") if not _may_write(path + suffix)]
    if not sides or not _may_write(path):
        return _READ_ONLY
    remedy = (
        f"{' and '.join(sides)} beside it may not be written: SQLite made it for whoever read the file first. Make it "
        f"writable, too, or have that user close the store"
    )
    return StoreAccessError, _READ_ONLY[1], remedy


def _may_write(path: str) -> bool:
    return not os.path.exists(path) or os.access(path, os.W_OK)  # noqa: PTH110  # as above


def _name(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", None) or ""
