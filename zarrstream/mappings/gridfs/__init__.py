"""A GridFS bucket in a MongoDB database as a mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings import on_use

if TYPE_CHECKING:
    from zarrstream.mappings.gridfs.mapping import GridFSMapping as GridFSMapping

__all__ = ["GridFSMapping"]
__getattr__ = on_use(__name__, GridFSMapping="mapping")
