"""One SQLite file as a mapping, in the layout of zarr 2's SQLiteStore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings import on_use

if TYPE_CHECKING:
    from zarrstream.mappings.sqlite.mapping import SQLiteMapping as SQLiteMapping

__all__ = ["SQLiteMapping"]
__getattr__ = on_use(__name__, SQLiteMapping="mapping")
