"""Values as zarr hands them to a store, and takes them from it."""

from __future__ import annotations

import asyncio
from typing import Any

from zarr.core.buffer import cpu, default_buffer_prototype

PROTOTYPE = default_buffer_prototype()


def buffer(value: bytes) -> cpu.Buffer:
    """Return a value for a store."""
    return cpu.Buffer.from_bytes(value)


def content(value: Any) -> bytes | None:
    """Return a store's value as bytes; None for None."""
    return None if value is None else bytes(value.to_bytes())


def get(store: Any, key: str, byte_range: Any = None) -> bytes | None:
    """Return what a store has under a key, asked on a loop of its own."""
    return content(asyncio.run(store.get(key, PROTOTYPE, byte_range)))
