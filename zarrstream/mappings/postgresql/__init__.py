"""A table of a PostgreSQL database as a mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings import on_use

if TYPE_CHECKING:
    from zarrstream.mappings.postgresql.mapping import PostgreSQLMapping as PostgreSQLMapping

__all__ = ["PostgreSQLMapping"]
__getattr__ = on_use(__name__, PostgreSQLMapping="mapping")
