"""A table in the memory of the machine as a mapping, shared by its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings import on_use

if TYPE_CHECKING:
    from zarrstream.mappings.shm.mapping import SharedMemoryMapping as SharedMemoryMapping

__all__ = ["SharedMemoryMapping"]
__getattr__ = on_use(__name__, SharedMemoryMapping="mapping")
