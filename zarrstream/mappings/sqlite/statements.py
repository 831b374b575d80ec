"""The statements of the SQLite back end, and the arithmetic of its prefixes."""

from __future__ import annotations

# zarr v2's layout. It writes ``REPLACE INTO zarr VALUES (?, ?)``, so the table keeps these two columns and no more.
CREATE = "CREATE TABLE IF NOT EXISTS zarr(k TEXT PRIMARY KEY, v BLOB)"
# Chunks of some KiB and more: half as many overflow pages as with SQLite's 4096, at no cost for small values.
PAGE_SIZE = 8192
# An upsert, since REPLACE deletes the row and makes another one: under a range reader, the row id would change hands.
PUT = "INSERT INTO zarr(k, v) VALUES(?, ?) ON CONFLICT(k) DO UPDATE SET v = excluded.v"
PUT_NEW = "INSERT INTO zarr(k, v) VALUES(?, ?) ON CONFLICT(k) DO NOTHING"
GET = "SELECT v FROM zarr WHERE k = ?"
FIND = "SELECT rowid, length(v), typeof(v) FROM zarr WHERE k = ?"
DELETE = "DELETE FROM zarr WHERE k = ?"
DELETE_RANGE = "DELETE FROM zarr WHERE k >= ? AND k < ?"
HAS = "SELECT 1 FROM zarr WHERE k = ?"
ANY = "SELECT 1 FROM zarr LIMIT 1"
COUNT = "SELECT count(*) FROM zarr"
KEYS = "SELECT k FROM zarr WHERE k >= ? AND k < ? ORDER BY k LIMIT ?"
KEYS_AFTER = "SELECT k FROM zarr WHERE k > ? AND k < ? ORDER BY k LIMIT ?"
KEYS_AT_ONCE = 1024
# A skip scan: from each key found, one index seek to the first key behind that child and all that is beneath it.
# '0' follows '/' in UTF-8; nothing lies between a key and the same key with char(1), as no key holds a NUL.
CHILDREN = """
WITH RECURSIVE child(k) AS (
    SELECT min(k) FROM zarr WHERE k >= :low AND k < :high
    UNION ALL
    SELECT (
        SELECT min(zarr.k) FROM zarr WHERE zarr.k < :high AND zarr.k >= CASE instr(substr(child.k, :skip), '/')
            WHEN 0 THEN child.k || char(1)
            ELSE substr(child.k, 1, :skip + instr(substr(child.k, :skip), '/') - 2) || '0' END)
    FROM child WHERE child.k IS NOT NULL)
SELECT k FROM child WHERE k IS NOT NULL
"""


VALUES_AT_ONCE = 500  # SQLite takes 999 parameters, and more where it was built so


def get_many(count: int) -> str:
    """Return the statement that reads so many keys at once."""
    return f"SELECT k, v FROM zarr WHERE k IN ({', '.join('?' * count)})"  # noqa: S608  # question marks only


def size_many(count: int) -> str:
    """Return the statement that measures so many values at once."""
    return f"SELECT k, length(v) FROM zarr WHERE k IN ({', '.join('?' * count)})"  # noqa: S608  # as above


def successor(prefix: str) -> str | bytes:
    """Return the least text that is greater than every key with this prefix; for none, a blob, greater than any text.

    SQLite compares the bytes of UTF-8, whose order is that of the code points.
    """
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return b""
    last = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if last == 0xD800 else last)  # noqa: PLR2004  # surrogates have no UTF-8 form
