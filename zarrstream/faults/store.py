"""The mock around any zarr store: its calls recorded, faults injected."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

from zarr.core.buffer import default_buffer_prototype

from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import Call, Encounter, Fault, Held, Script
from zarrstream.stores.mapping import MappingStore
from zarrstream.stores.wrappers.interceptor import StoreLike, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

T = TypeVar("T")
B = TypeVar("B", bound="Buffer | None")


class FaultyStore(Wrapper):
    """A zarr store that fails when it is told to, and remembers what was asked of it.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What is wrapped.
    *faults : Fault
        What goes wrong. See `zarrstream.faults.script.Fault`.
    seed : int, optional
        Decides which calls a fault with a ``rate`` befalls: the same seed, the same calls.

    Notes
    -----
    Each method of zarr's Store is one call, batches are as many as they have keys; ``delete_dir`` and ``clear`` are
    ``"clear"``, every listing is ``"list"``. What waits is cancelled with its task. Without faults it is what it wraps.
    **Threads, event loops, processes, durability**: as ``store``. **Pickling**: as ``store``, with faults and seed;
    calls are not carried along. ``with_read_only`` makes one that shares faults and calls.
    """

    def __init__(self, store: StoreLike, *faults: Fault, seed: int = 0) -> None:
        super().__init__(store)
        self._script = Script(faults, seed)
        self._listed: list[str] | None = None

    def _with_store(self, store: Store) -> Self:
        made = type(self)(store)
        made._script = self._script  # noqa: SLF001  # of its own class
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {len(self._script.faults)} faults, {len(self.calls)} calls)"

    @property
    def place(self) -> str | None:
        """That of the store, where it has one."""
        return getattr(self._store, "place", None)

    @property
    def durable_on_write(self) -> bool:
        """Whether a write that returned is published, as the store has it."""
        return bool(getattr(self._store, "durable_on_write", True))

    # -- what tests ask and say ----------------------------------------------------------------------------------------

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that have ended, in that order."""
        return self._script.calls

    def count(self, operation: str = "*", key: str = "*") -> int:
        """Return how many calls of an operation on keys, both glob patterns, have ended."""
        return self._script.count(operation, key)

    def inject(self, *faults: Fault) -> None:
        """Let more go wrong, from now on."""
        self._script.inject(faults)

    def mend(self) -> None:
        """Let nothing go wrong any more; what hangs goes on."""
        self._script.mend()

    def end_hangs(self) -> None:
        """Let the calls that hang go on."""
        self._script.end_hangs()

    def hold(self, operation: str = "*", key: str = "*") -> Held:
        """Make the calls that match wait until they are released. See `zarrstream.faults.script.Held`."""
        return self._script.hold(operation, key)

    # -- values --------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        async def work(met: Encounter) -> Buffer | None:
            return _spoilt(met, await self._store.get(key, prototype or default_buffer_prototype(), byte_range))

        return await self._call("get", key, work, _length)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def set(self, key: str, value: Buffer) -> None:
        await self._call("set", key, lambda met: self._store.set(key, _spoilt(met, value)), lambda _: len(value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._call("set_new", key, lambda met: self._store.set_if_not_exists(key, _spoilt(met, value)))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        return await self._call("contains", key, lambda _: self._store.exists(key))

    async def getsize(self, key: str) -> int:
        return await self._call("size", key, lambda _: self._store.getsize(key))

    async def delete(self, key: str) -> None:
        await self._call("delete", key, lambda _: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        await self._call("clear", prefix, lambda _: self._store.delete_dir(prefix))

    async def clear(self) -> None:
        await self._call("clear", "", lambda _: self._store.clear())

    # -- the same in the calling thread, where the store has it --------------------------------------------------------

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        inner: Any = self._store

        def work(met: Encounter) -> Buffer | None:
            value: Buffer | None = inner.get_sync(key, prototype=prototype, byte_range=byte_range)
            return _spoilt(met, value)

        return self._call_sync("get", key, work, _length)

    def set_sync(self, key: str, value: Buffer) -> None:
        inner: Any = self._store
        self._call_sync("set", key, lambda met: inner.set_sync(key, _spoilt(met, value)), lambda _: len(value))

    def delete_sync(self, key: str) -> None:
        inner: Any = self._store
        self._call_sync("delete", key, lambda _: inner.delete_sync(key))

    # -- keys ----------------------------------------------------------------------------------------------------------

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async def work(met: Encounter) -> list[str]:
            if met.has("stale-listing"):
                return [key for key in self._listed or () if key.startswith(prefix)]
            if self._listed is not None:
                self._listed = await _all(self._store.list())
            return await _all(self._store.list_prefix(prefix))

        for key in await self._call("list", prefix, work):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async def work(met: Encounter) -> list[str]:
            if met.has("stale-listing"):
                path = prefix.rstrip("/")
                return list(FaultyMapping(dict.fromkeys(self._listed or (), b"")).children(path))
            return await _all(self._store.list_dir(prefix))

        for name in await self._call("list", prefix, work):
            yield name

    async def is_empty(self, prefix: str) -> bool:
        async def work(met: Encounter) -> bool:
            if met.has("stale-listing"):
                return not any(key.startswith(prefix.rstrip("/") + "/" * bool(prefix)) for key in self._listed or ())
            return await self._store.is_empty(prefix)

        return await self._call("list", prefix, work)

    def flush(self) -> None:
        """Publish what is pending in the store, where a write alone does not."""
        flush: Callable[[], None] = getattr(self._store, "flush", lambda: None)
        self._call_sync("flush", "", lambda _: flush())

    def close(self) -> None:
        """Let what hangs go on, and close the store."""
        self._script.end_hangs()
        super().close()

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _call(
        self,
        operation: str,
        key: str,
        work: Callable[[Encounter], Awaitable[T]],
        nbytes: Callable[[T], int] = lambda _: 0,
    ) -> T:
        if self._listed is None and any(fault.kind == "stale-listing" for fault in self._script.faults):
            self._listed = await _all(self._store.list())
        met = self._script.meet(operation, key)
        with self._script.noting([met]) as sizes:
            for wait in met.waits:
                await asyncio.shield(asyncio.wrap_future(wait))  # a cancelled task releases nobody else
            if met.seconds:
                await asyncio.sleep(met.seconds)
            met.fail("error")
            result = await work(met)
            sizes[key] = nbytes(result)
            met.fail("lost-acknowledgement")
        return result

    def _call_sync(
        self, operation: str, key: str, work: Callable[[Encounter], T], nbytes: Callable[[T], int] = lambda _: 0
    ) -> T:
        met = self._script.meet(operation, key)
        with self._script.noting([met]) as sizes:
            met.begin()
            result = work(met)
            sizes[key] = nbytes(result)
            met.fail("lost-acknowledgement")
        return result


def faulty(store: Store, faults: Iterable[Fault], seed: int) -> Store:
    """Put the mock into a store: under a `MappingStore`, around any other."""
    if isinstance(store, MappingStore):
        return MappingStore(FaultyMapping(store.mapping, *faults, seed=seed), read_only=store.read_only)
    return FaultyStore(store, *faults, seed=seed)


def _spoilt(met: Encounter, value: B) -> B:
    if value is None or not (met.has("truncated-value") or met.has("flipped-bit")):
        return value
    return type(value).from_bytes(met.spoil(value.to_bytes()))


def _length(value: Buffer | None) -> int:
    return 0 if value is None else len(value)


async def _all(names: AsyncIterator[str]) -> list[str]:
    return [name async for name in names]
