"""What MongoDB's errors mean to a user: the table by which they become ours."""

from __future__ import annotations

import socket
from typing import Any

from zarrstream.errors import (
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

_Entry = tuple[type[Exception], str, str]  # our error, what is wrong, and the remedy

_PASSWORD = (StoreAccessError, "refused the login", "check user, password and authSource in the URL")
_FORBIDDEN = (
    StoreAccessError,
    "does not allow this user to do that",
    "grant the role readWrite on the database (read, to open it with read_only=True)",
)
_UNREACHABLE = (StoreUnavailableError, "does not answer", "check host and port, that mongod runs, and the network")
_NO_PRIMARY = (StoreUnavailableError, "has no primary at the moment", "try again, or check the replica set's members")
_SLOW = (StoreTimeoutError, "did not answer in time", "raise timeout, or look for what keeps the server busy")
_FULL = (StoreFullError, "has no room left on its disk", "free space there; nothing of the failed write is visible")
_CONFLICT = (StoreUnavailableError, "saw too many writers at one key", "let fewer processes write the same key")
_TOO_BIG = (StoreError, "cannot hold a value of this size", "use smaller chunks or shards")
_UNSURE = (
    StoreUnavailableError,
    "did not say in time that a majority has the write",
    "check the replica set's members; the write may be there, and writing it once more is safe",
)
_TRANSACTION = (
    StoreTimeoutError,
    "ended the transaction, which took too long",
    "write fewer or smaller values at once",
)
_CROWDED = (
    StoreUnavailableError,
    "has no room for the transaction in its cache",
    "let fewer processes write at once, write smaller batches, or give the server more memory",
)
_INDEX = (
    StoreCorruptError,
    "has other indexes or revisions than GridFS has",
    "use another bucket, or drop the index that the error names",
)
_NAME = (StoreOptionError, "cannot be named so", "choose another database or bucket")
_URL = (StoreOptionError, "has a URL or options that the driver does not take", "see pymongo's MongoClient for them")
_ODD = (StoreCorruptError, "holds what is no BSON", "check the server's files, and what is between it and here")
_UNKNOWN = (StoreError, "failed", "see the error that this one was raised from")

# By the server's code: src/mongo/base/error_codes.yml.
_CODES: dict[int, _Entry] = {
    6: _UNREACHABLE,
    7: _UNREACHABLE,
    11: _PASSWORD,
    13: _FORBIDDEN,
    18: _PASSWORD,
    20: _NAME,
    50: _SLOW,
    64: _UNSURE,
    67: _INDEX,
    73: _NAME,
    85: _INDEX,
    86: _INDEX,
    89: _UNREACHABLE,
    91: _NO_PRIMARY,
    100: _UNSURE,
    112: _CONFLICT,
    133: _NO_PRIMARY,
    189: _NO_PRIMARY,
    202: _SLOW,
    251: _CONFLICT,
    262: _SLOW,
    290: _TRANSACTION,
    388: _CROWDED,
    -31800: _CROWDED,  # WiredTiger's own
    8000: _PASSWORD,  # Atlas
    9001: _UNREACHABLE,
    10107: _NO_PRIMARY,
    10334: _TOO_BIG,
    11000: _CONFLICT,
    11600: _NO_PRIMARY,
    11602: _NO_PRIMARY,
    12501: _FULL,
    13435: _NO_PRIMARY,
    13436: _NO_PRIMARY,
    14031: _FULL,
    17280: _TOO_BIG,
}
# By the driver's class, where the server said nothing; the first that fits.
_CLASSES: tuple[tuple[str, _Entry], ...] = (
    ("ServerSelectionTimeoutError", _UNREACHABLE),
    ("NetworkTimeout", _SLOW),
    ("ExecutionTimeout", _SLOW),
    ("WTimeoutError", _UNSURE),
    ("WaitQueueTimeoutError", _SLOW),
    ("_OptionError", _URL),
    ("ConfigurationError", _URL),
    ("InvalidName", _NAME),
    ("DocumentTooLarge", _TOO_BIG),
    ("NotPrimaryError", _NO_PRIMARY),
    ("ConnectionFailure", _UNREACHABLE),
    ("InvalidBSON", _ODD),
)
#: The label of a commit whose outcome is not known.
UNSURE = "UnknownTransactionCommitResult"
CONFLICT = 112
DUPLICATE = 11000
# Another standing of the same code: nobody may create the index, since a bucket of others has what it forbids.
_LOST = frozenset({"AutoReconnect", "NotPrimaryError"})


def codes(error: BaseException) -> set[int]:
    """Return what the server said: the code, and those of single writes in a batch."""
    found: set[int] = {code for code in [getattr(error, "code", None)] if isinstance(code, int)}
    details: Any = getattr(error, "details", None)
    if isinstance(details, dict):
        for kind in ("writeErrors", "writeConcernErrors"):
            found.update(entry["code"] for entry in details.get(kind) or () if isinstance(entry.get("code"), int))
        concern = details.get("writeConcernError")
        if isinstance(concern, dict) and isinstance(concern.get("code"), int):
            found.add(concern["code"])
    return found


def is_duplicate(error: BaseException) -> bool:
    """Return whether a unique index refused it, and nothing else did."""
    return bool(found := codes(error)) and found <= {DUPLICATE, 65}  # 65: several at once, as the batch says of itself


def duplicate(error: BaseException) -> str:
    """Return what a unique index refused to hold twice, as far as the server says."""
    details: Any = getattr(error, "details", None)
    found = details.get("keyValue") if isinstance(details, dict) else None
    if isinstance(found, dict) and found:
        return repr(next(iter(found.values()))) if len(found) == 1 else repr(found)
    return "something"


def is_refused(error: BaseException | None) -> bool:
    """Return whether nothing listens at a server's address, or there is no such address."""
    text = str(error)
    return "refused" in text or f"Errno {socket.EAI_NONAME}" in text


def passes(error: BaseException) -> bool:
    """Return whether the same call may succeed a moment later, on another connection or member."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ServerSelectionTimeoutError", "NetworkTimeout"}:  # these have waited for long already
        return False
    return bool(names & _LOST) or any(_CODES.get(code) is _NO_PRIMARY for code in codes(error))


def translated(error: BaseException, place: str, secrets: tuple[str, ...] = ()) -> tuple[Exception, bool]:
    """Return our error for one of the driver's, and whether that one may be shown as its cause."""
    kind, what, remedy = _entry(error)
    text = str(error).partition(", full error:")[0].partition(", Timeout:")[0]
    clean = kind is not StoreOptionError and not any(secret in str(error) for secret in secrets)
    shown = f" ({text})" if clean else f" ({type(error).__name__})"
    labelled = getattr(error, "has_error_label", None)
    if labelled is not None and labelled(UNSURE):
        remedy += ". The change was sent to be committed, and may have taken place or not: read it"
    return kind(f"the MongoDB store {place} {what}{shown}: {remedy}"), clean


def foreign(error: OSError | LookupError, place: str) -> StoreError:
    """Return our error for one of Python's own: of a document without a field, or of the driver's surroundings."""
    if isinstance(error, LookupError):
        return StoreCorruptError(
            f"the MongoDB store {place} holds a document that is none of GridFS or zarr 2 (it lacks {error}): "
            f"delete or rewrite it"
        )
    return StoreUnavailableError(
        f"the MongoDB store {place} cannot be reached ({type(error).__name__}: {error}): see the error that this one "
        f"was raised from"
    )


def _entry(error: BaseException) -> _Entry:
    for code in sorted(codes(error) & _CODES.keys()):
        return _CODES[code]
    names = {kind.__name__ for kind in type(error).__mro__}
    for name, entry in _CLASSES:
        if name in names:
            return entry
    return _SLOW if getattr(error, "timeout", False) else _UNKNOWN
