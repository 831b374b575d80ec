"""A zip archive as a mapping, which can be rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings import on_use

if TYPE_CHECKING:
    from zarrstream.mappings.zip.mapping import ZipMapping as ZipMapping

__all__ = ["ZipMapping"]
__getattr__ = on_use(__name__, ZipMapping="mapping")
