"""What PostgreSQL's errors mean to a user: the table by which they become ours."""

from __future__ import annotations

import re

from zarrstream.errors import (
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreTimeoutError,
    StoreUnavailableError,
    TransactionConflictError,
)

_Entry = tuple[type[Exception], str, str]  # our error, what is wrong, and the remedy

NO_TABLE = "42P01"
_LOST = (
    StoreUnavailableError,
    "cannot be reached",
    "start the server, or check host and port; with a standby, name both hosts and target_session_attrs=read-write",
)
_SLOW = (StoreTimeoutError, "did not answer in time", "raise the timeout, or see what holds the server up")
_REFUSED = (StoreAccessError, "refuses the user or the password", "check both, and the server's pg_hba.conf")
_CONFLICT = (
    TransactionConflictError,
    "has a transaction that is in conflict with another one",
    "run it again: store.in_transaction(work) does",
)
_FOREIGN = (
    StoreCorruptError,
    "has a table of this name that is not zarrstream's",
    "choose another table_name; ours has array_id text, key text and value bytea, with the primary key (array_id, key)",
)
_NOT_TEXT = (StoreOptionError, "cannot hold this key", "use a database with ENCODING 'UTF8'")
_DAMAGED = (StoreCorruptError, "is damaged", "restore it from its backup or its standby")

# By SQLSTATE; two letters stand for their class, where the five have no line of their own.
_TABLE: dict[str, _Entry] = {
    "08": _LOST,
    "57": _LOST,
    "25006": (
        StoreAccessError,
        "is read-only: a standby, or a snapshot",
        "write to the primary (target_session_attrs=read-write), or open it with read_only=True",
    ),
    "25P02": _CONFLICT,
    "25P03": (
        StoreTimeoutError,
        "ended a transaction that was idle for too long",
        "do slow work before the transaction, or raise idle_in_transaction_session_timeout",
    ),
    "28": _REFUSED,
    "3D000": (
        StoreUnavailableError,
        "does not exist",
        "create it (CREATE DATABASE), or check the name: what follows it in a path is the array's, not the URL's",
    ),
    "3F000": (StoreUnavailableError, "has no such schema", "create it (CREATE SCHEMA), or check the table_name"),
    "40001": _CONFLICT,
    "40P01": _CONFLICT,
    NO_TABLE: (
        StoreUnavailableError,
        "has lost the table, which was there before",
        "restore it, or close() the store to begin anew",
    ),
    "22023": (
        StoreOptionError,
        "refuses a setting of the connection",
        "check the options in the URL, and PGOPTIONS, PGTZ, PGDATESTYLE and the like in the environment",
    ),
    "42501": (
        StoreAccessError,
        "does not allow this to its user",
        "GRANT it SELECT, INSERT, UPDATE and DELETE on the table (CREATE on the schema to make it), or only read",
    ),
    "42703": _FOREIGN,
    "42804": _FOREIGN,
    "42809": _FOREIGN,
    "42883": _FOREIGN,
    "42P10": _FOREIGN,
    "22021": _NOT_TEXT,
    "22P05": _NOT_TEXT,
    "53100": (
        StoreFullError,
        "has no room left on its disk",
        "free space there; nothing of the failed write is stored",
    ),
    "53200": (StoreError, "has no memory left for this", "use smaller chunks or shards, or fewer connections"),
    "53300": (
        StoreUnavailableError,
        "has no connection left",
        "lower max_connections of the stores, or raise max_connections of the server",
    ),
    "54000": (
        StoreError,
        "cannot hold a key or value of this size",
        "a key and its array_id have 2,700 bytes at most, a value 1 GB: use shorter names, or smaller chunks",
    ),
    "55P03": _SLOW,
    "57014": _SLOW,
    "58": _DAMAGED,
    "XX": _DAMAGED,
}
_UNKNOWN = (StoreError, "failed", "see the error that this one was raised from")
# What a connection that is refused says: libpq hands on the text, and not the code. In the order of their weight, for
# of several hosts each says something.
_SAID = (
    (re.compile(r"password|authentication|pg_hba|role \".*\" does not exist|not permitted to log in"), "28P01"),
    (re.compile(r"database \".*\" does not exist"), "3D000"),
    (re.compile(r"permission denied for database"), "42501"),
    (re.compile(r"invalid value for parameter|unrecognized configuration parameter|invalid command-line arg"), "22023"),
    (re.compile(r"too many (clients|connections)|remaining connection slots"), "53300"),
    (re.compile(r"the database system is|session is (not )?read-only|server is (not )?in hot standby"), "57P03"),
)
# Those that pass by themselves: the server is away, comes back, or another one takes its place.
_PASSING = ("08", "57P", "53300")


def code(error: Exception) -> str:
    """Return the SQLSTATE of an error; where the driver has none, as for one that lost the connection, the nearest."""
    state: str | None = getattr(error, "sqlstate", None)
    if state:
        return state
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "Overdue" in kinds:
        return "57014"
    if "OperationalError" in kinds:
        return next((state for pattern, state in _SAID if pattern.search(str(error))), "08006")
    return "?????"


def passes(error: Exception) -> bool:
    """Return whether the same call may succeed a moment later, on this server or on the one that takes its place."""
    return code(error).startswith(_PASSING)


def is_lost(error: Exception) -> bool:
    """Return whether the answer to a call was lost, so that nobody knows whether it had its effect."""
    return code(error).startswith(("08", "57"))


def is_conflict(error: Exception) -> bool:
    """Return whether the same call succeeds if it is made again."""
    return code(error) in {"40001", "40P01"}


def translated(error: Exception, place: str) -> Exception:
    """Return our error for one of the driver's; the caller raises it ``from`` the original."""
    state = code(error)
    kind, what, remedy = _TABLE.get(state) or _TABLE.get(state[:2]) or _UNKNOWN
    return kind(f"the PostgreSQL database of {place} {what} ({said(error)}): {remedy}")


def unsure(error: Exception) -> Exception:
    """Return our error for a change whose commit has no answer: nobody knows whether it took place."""
    kind = type(error) if isinstance(error, StoreUnavailableError | StoreTimeoutError) else StoreUnavailableError
    return kind(f"{error}. The change was sent to be committed, and may have taken place or not: read it")


def foreign(error: OSError | LookupError, place: str) -> StoreError:
    """Return our error for one of Python's own, from the driver's surroundings."""
    return StoreUnavailableError(
        f"the PostgreSQL database of {place} cannot be reached ({type(error).__name__}: {error}): see the error that "
        f"this one was raised from"
    )


def too_large(what: str, place: str) -> Exception:
    """Return the error of a value that no message to the server can hold."""
    kind, says, remedy = _TABLE["54000"]
    return kind(f"the PostgreSQL database of {place} {says} ({what}): {remedy}")


def gone(place: str) -> Exception:
    """Return the error of a table that was there before, where no error of the driver says so."""
    kind, what, remedy = _TABLE[NO_TABLE]
    return kind(f"the PostgreSQL database of {place} {what}: {remedy}")


def said(error: Exception) -> str:
    """Return what the driver says, in one line."""
    return " ".join(str(error).split())
