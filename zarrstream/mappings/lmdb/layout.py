"""How keys lie in LMDB: as their UTF-8, but for those that LMDB cannot hold."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from zarrstream.errors import StoreCorruptError
from zarrstream.mappings.base import checked_key

if TYPE_CHECKING:
    from collections.abc import Buffer

LIMIT = 511  # LMDB's, in bytes, as py-lmdb builds it
# Never in UTF-8, so that no key can look like a replaced one. It sorts behind all that begins alike.
_MARK = b"\xff"
#: What stands for no key at all.
NO_KEY = b"\xff\xff"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 4
#: How much of a long key leads the name that stands for it: a prefix up to this length is found by seeking.
STEM = LIMIT - len(_MARK) - _DIGEST_BYTES


def stored_name(key: object) -> bytes:
    """Return the name under which a key is stored.

    A key over the limit is stored under its first bytes and a digest, with the whole key in front of the value; the
    empty key, which LMDB has not, under a byte that no other key begins with.
    """
    name = checked_key(key).encode()
    if 0 < len(name) <= LIMIT:
        return name
    return name[:STEM] + _MARK + blake2b(name, digest_size=_DIGEST_BYTES).digest() if name else _MARK


def is_long(name: bytes) -> bool:
    """Return whether a stored name stands for a key over the limit."""
    return len(name) == LIMIT and name[STEM] == _MARK[0]


def stored_value(key: str, name: bytes, value: Buffer) -> Buffer:
    """Return what is stored for a value: in front of it, the whole key where the name does not hold it."""
    if not is_long(name):
        return value
    whole = key.encode()
    return b"".join((len(whole).to_bytes(_LENGTH_BYTES, "big"), whole, value))


def value_start(name: bytes, content: memoryview) -> int:
    """Return at which byte of a stored value the user's own begins."""
    return _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big") if is_long(name) else 0


def whole_key(name: bytes, content: memoryview) -> bytes:
    """Return the UTF-8 of the key that a stored name and value are of."""
    if is_long(name):
        return bytes(content[_LENGTH_BYTES : value_start(name, content)])
    return b"" if name == _MARK else name


def text(key: bytes, path: str) -> str:
    """Return a stored key as text.

    Raises
    ------
    StoreCorruptError
        It is no UTF-8: another program wrote it.
    """
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise StoreCorruptError(
            f"the LMDB database {path!r} holds the key {key!r}, which is no text: it is no zarr store; write to another"
        ) from error
