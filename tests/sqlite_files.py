"""SQLite files looked at, and limited, from outside of the mapping."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zarrstream.mappings.sqlite import SQLiteMapping


def rows(path: Path, statement: str) -> list[Any]:
    """Ask a file by bare sqlite3."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def limited(mapping: SQLiteMapping) -> Callable[[], object]:
    """Let the database grow by no page; what is returned lifts the limit."""
    (count,) = mapping._rows("PRAGMA page_count", ())[0]
    mapping._rows(f"PRAGMA max_page_count = {count}", ())
    return lambda: mapping._rows("PRAGMA max_page_count = 1000000", ())
