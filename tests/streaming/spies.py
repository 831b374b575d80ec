"""Stores that count, hold, delay and fail: what the stream tests look through."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")


class Spy(MemoryStore):
    """A synchronous store that counts its chunk calls and asks a hook before each.

    The hook receives the operation and the key; it may sleep, wait or raise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: Counter[tuple[str, str]] = Counter()
        self.hook: Callable[[str, str], object] | None = None
        self.running = self.peak = 0
        self.lock = threading.Lock()

    def seen(self, operation: str) -> dict[str, int]:
        return {key: count for (what, key), count in self.calls.items() if what == operation}

    def _enter(self, operation: str, key: str) -> None:
        if key.endswith(METADATA):
            return
        with self.lock:
            self.calls[operation, key] += 1
            self.running += 1
            self.peak = max(self.peak, self.running)
        try:
            if self.hook is not None:
                self.hook(operation, key)
        finally:
            with self.lock:
                self.running -= 1

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        self._enter("get", key)
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        self._enter("get", key)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        self._enter("set", key)
        await super().set(key, value, byte_range)

    def set_sync(self, key: str, value: Any) -> None:
        self._enter("set", key)
        super().set_sync(key, value)

    async def delete(self, key: str) -> None:
        self._enter("delete", key)
        await super().delete(key)

    def delete_sync(self, key: str) -> None:
        self._enter("delete", key)
        super().delete_sync(key)


class AsyncSpy(MemoryStore):
    """A store that has to be awaited: its class changes the awaited methods alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: Counter[tuple[str, str]] = Counter()
        self.hook: Callable[[str, str], Any] | None = None
        self.running = self.peak = 0
        self.cancelled = 0

    def seen(self, operation: str) -> dict[str, int]:
        return {key: count for (what, key), count in self.calls.items() if what == operation}

    async def _enter(self, operation: str, key: str) -> None:
        if key.endswith(METADATA):
            return
        self.calls[operation, key] += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await asyncio.sleep(0)
            if self.hook is not None:
                await self.hook(operation, key)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        await self._enter("get", key)
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        await self._enter("set", key)
        await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:
        await self._enter("delete", key)
        await super().delete(key)


def filled(store: Any, shape: tuple[int, ...] = (20, 12), **options: Any) -> tuple[zarr.Array, np.ndarray]:
    """Make an array of distinct values (as far as the type has them) in a store; returns it and its values."""
    options = {"chunks": (5, 4), "dtype": "i4", "fill_value": 255 if options.get("dtype") == "u1" else -1, **options}
    array = zarr.create_array(store, shape=shape, **options)
    values = np.arange(1, 1 + int(np.prod(shape)))
    values = (values if options["dtype"] == "i4" else 1 + values % 250).astype(options["dtype"]).reshape(shape)
    array[...] = values
    for name in ("calls", "peak", "running"):
        if hasattr(store, name):
            setattr(store, name, Counter() if name == "calls" else 0)
    return array, values


def eventually(truth: Callable[[], object], seconds: float = 2.0) -> bool:
    """Whether something becomes true; looked at again and again, for what other threads do in their own time."""
    deadline = time.monotonic() + seconds
    while not truth():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def stream_threads() -> list[str]:
    """The names of the streams' threads that are there."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("zarrstream-")]
