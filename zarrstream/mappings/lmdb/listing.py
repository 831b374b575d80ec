"""Walks over the keys of an LMDB database, each within one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings.lmdb import layout as keys

if TYPE_CHECKING:
    from zarrstream.mappings.lmdb.environment import Cursor, Transaction

KEYS_AT_ONCE = 1024


def _entry(cursor: Cursor[memoryview]) -> tuple[bytes, bytes]:
    """Return the stored name at a cursor, and the whole key."""
    name = bytes(cursor.key())
    return name, keys.whole_key(name, cursor.value()) if keys.is_long(name) else keys.whole_key(name, memoryview(b""))


def page(transaction: Transaction[memoryview], *, head: bytes, after: bytes | None) -> list[tuple[bytes | None, bytes]]:
    """Return the next whole keys with their stored names; None for those that begin as ``head`` only at first."""
    stem = head[: keys.STEM]
    found: list[tuple[bytes | None, bytes]] = []
    with transaction.cursor() as cursor:
        there = cursor.set_range(after or stem) if after or stem else cursor.first()
        if there and after is not None and cursor.key() == after:
            there = cursor.next()
        while there and len(found) < KEYS_AT_ONCE:
            name, key = _entry(cursor)
            if not name.startswith(stem):
                break
            found.append((key if key.startswith(head) else None, name))
            there = cursor.next()
    return found


def children(transaction: Transaction[memoryview], *, head: bytes) -> list[bytes]:
    """Return the names one level below ``head``, and some of them twice; what is beneath a name is skipped."""
    stem = head[: keys.STEM]
    names: list[bytes] = []
    with transaction.cursor() as cursor:
        there = cursor.set_range(stem) if stem else cursor.first()
        while there:
            name, key = _entry(cursor)
            if not name.startswith(stem):
                break
            end = key.find(b"/", len(head))
            if key.startswith(head):
                names.append(key[len(head) : end if end >= 0 else None])
            # '0' follows '/': the first name behind all that is beneath this child.
            skips = key.startswith(head) and 0 <= end < keys.STEM
            there = cursor.set_range(key[:end] + b"0") if skips else cursor.next()
    return names


def clear(transaction: Transaction[memoryview], *, head: bytes) -> None:
    """Remove the keys that begin as ``head``."""
    stem = head[: keys.STEM]
    with transaction.cursor() as cursor:
        there = cursor.set_range(stem) if stem else cursor.first()
        while there:
            name, key = _entry(cursor)
            if not name.startswith(stem):
                break
            there = cursor.delete() and bool(cursor.key()) if key.startswith(head) else cursor.next()
