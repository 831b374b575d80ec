"""The statements of the PostgreSQL back end."""

from __future__ import annotations

from dataclasses import dataclass, fields

KEYS_AT_ONCE = 1024
# From so many rows on, a COPY into a temporary table and one upsert take less time than as many upserts.
ROWS_FOR_COPY = 64
COPY = "COPY pg_temp.zarrstream_fresh(key, value) FROM STDIN (FORMAT BINARY)"
COPY_TYPES = ("text", "bytea")
HAS_FRESH = "SELECT to_regclass('pg_temp.zarrstream_fresh') IS NOT NULL"
# Of a commit whose answer was lost. (The functions of PostgreSQL 10, which later ones have as well.)
NUMBER = "SELECT txid_current_if_assigned()"
STATUS = "SELECT txid_status(%s)"
# The session of a client that has gone, before the server has noticed: the commit has not reached it.
END_IDLE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE backend_xid::text = (%s::bigint & 4294967295)::text AND state LIKE 'idle in transaction%%'"
)
EMPTY_FRESH = "DELETE FROM pg_temp.zarrstream_fresh"
FRESH = """
CREATE TEMPORARY TABLE zarrstream_fresh(key text COLLATE "C", value bytea) ON COMMIT DELETE ROWS;
ALTER TABLE pg_temp.zarrstream_fresh ALTER COLUMN value SET STORAGE EXTERNAL
"""

TRANSACTION = "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE"
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# One at a time: of two that make a table at once, PostgreSQL tells one that there is a duplicate. STORAGE EXTERNAL
# keeps values uncompressed (chunks are compressed already), so that a range is read without the rest.
_CREATE = """
SELECT pg_advisory_xact_lock(hashtextextended('zarrstream', 0));
CREATE TABLE IF NOT EXISTS {table}(
    array_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (array_id, key));
ALTER TABLE {table} ALTER COLUMN value SET STORAGE EXTERNAL
"""


@dataclass(frozen=True)
class Statements:
    """All of them, on one table. Parameters begin with the array's id.

    "C" is said with each comparison, though the column has it: with another column the answers are right all the same.
    """

    get: str = "SELECT value FROM {table} WHERE array_id = %s AND key = %s"
    get_many: str = "SELECT key, value FROM {table} WHERE array_id = %s AND key = ANY(%s)"
    get_range: str = "SELECT substring(value FROM %s FOR %s) FROM {table} WHERE array_id = %s AND key = %s"
    # As Python counts: from the end where a bound is negative.
    get_slice: str = """
SELECT substring(value FROM low + 1 FOR greatest(high - low, 0)) FROM (
    SELECT value,
        CASE WHEN %(start)s < 0 THEN greatest(octet_length(value) + %(start)s::int, 0) ELSE %(start)s::int END AS low,
        CASE WHEN %(stop)s < 0 THEN greatest(octet_length(value) + %(stop)s::int, 0) ELSE %(stop)s::int END AS high
    FROM {table} WHERE array_id = %(id)s AND key = %(key)s) AS cut
"""
    size: str = "SELECT octet_length(value) FROM {table} WHERE array_id = %s AND key = %s"
    has: str = "SELECT 1 FROM {table} WHERE array_id = %s AND key = %s"
    any: str = "SELECT 1 FROM {table} WHERE array_id = %s LIMIT 1"
    count: str = "SELECT count(*) FROM {table} WHERE array_id = %s"
    put: str = (
        "INSERT INTO {table}(array_id, key, value) VALUES(%s, %s, %b) "
        "ON CONFLICT(array_id, key) DO UPDATE SET value = excluded.value RETURNING txid_current()"
    )
    put_new: str = (
        "INSERT INTO {table}(array_id, key, value) VALUES(%s, %s, %b) ON CONFLICT(array_id, key) DO NOTHING "
        "RETURNING txid_current()"
    )
    # In the order of keys, as everybody: two batches that lock the same rows in turn do not wait for each other.
    put_fresh: str = (
        "INSERT INTO {table}(array_id, key, value) SELECT %s, key, value FROM pg_temp.zarrstream_fresh ORDER BY key "
        "ON CONFLICT(array_id, key) DO UPDATE SET value = excluded.value"
    )
    delete: str = "DELETE FROM {table} WHERE array_id = %s AND key = %s RETURNING txid_current()"
    take: str = "DELETE FROM {table} WHERE array_id = %s AND key = %s RETURNING txid_current(), value"
    delete_range: str = 'DELETE FROM {table} WHERE array_id = %s AND key COLLATE "C" >= %s AND key COLLATE "C" < %s'
    delete_from: str = 'DELETE FROM {table} WHERE array_id = %s AND key COLLATE "C" >= %s'
    keys_range: str = (
        'SELECT key FROM {table} WHERE array_id = %s AND key COLLATE "C" >= %s AND key COLLATE "C" < %s '
        'ORDER BY key COLLATE "C" LIMIT %s'
    )
    keys_from: str = (
        'SELECT key FROM {table} WHERE array_id = %s AND key COLLATE "C" >= %s ORDER BY key COLLATE "C" LIMIT %s'
    )
    # A skip scan: from each key found, one index seek to the first key behind that child and all that is beneath it.
    # '0' follows '/' in UTF-8; nothing lies between a key and the same key with chr(1), as no key holds a NUL.
    children: str = """
WITH RECURSIVE child(key) AS (
    (SELECT key FROM {table} WHERE array_id = %(id)s AND key COLLATE "C" >= %(low)s
     ORDER BY key COLLATE "C" LIMIT 1)
    UNION ALL
    SELECT (
        SELECT kept.key FROM {table} AS kept
        WHERE kept.array_id = %(id)s AND kept.key COLLATE "C" >= CASE strpos(substr(child.key, %(skip)s), '/')
            WHEN 0 THEN child.key || chr(1)
            ELSE left(child.key, %(skip)s + strpos(substr(child.key, %(skip)s), '/') - 2) || '0' END
        ORDER BY kept.key COLLATE "C" LIMIT 1)
    FROM child WHERE starts_with(child.key, %(low)s))
SELECT key FROM child WHERE starts_with(key, %(low)s)
"""
    there: str = "SELECT to_regclass(%s) IS NOT NULL"
    create: str = _CREATE
    table: str = "{table}"

    @classmethod
    def on(cls, table: str) -> Statements:
        """Return the statements on a table, whose name is quoted."""
        # What has parameters is read by the driver, to which a percent sign says that there is one.
        escaped = table.replace("%", "%%")
        texts = {each.name: str(each.default) for each in fields(cls)}
        return cls(
            **{
                name: text.replace("{table}", table if name in {"create", "table"} else escaped)
                for name, text in texts.items()
            }
        )
