"""An LMDB database as a mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings import on_use

if TYPE_CHECKING:
    from zarrstream.mappings.lmdb.mapping import LMDBMapping as LMDBMapping

__all__ = ["LMDBMapping"]
__getattr__ = on_use(__name__, LMDBMapping="mapping")
