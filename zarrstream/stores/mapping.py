"""`MappingStore`: the one class that speaks zarr for every mapping, async and sync."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableMapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from zarrstream.mappings.base import ByteMapping
from zarrstream.mappings.foreign import ForeignMapping
from zarrstream.stores.buffers import bounds, content, owned
from zarrstream.stores.slots import occupying
from zarrstream.stores.transactions import Transactional

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

P = ParamSpec("P")
T = TypeVar("T")
# How many keys one hop to a thread fetches while a listing is read.
_KEYS_AT_ONCE = 1024


class MappingStore(Transactional, Store):
    """A zarr store on any mapping of bytes under string keys.

    Parameters
    ----------
    mapping : MutableMapping[str, bytes]
        A `zarrstream.mappings.base.ByteMapping` (SQLite, …), or any other: a dict, ``zict``, ``diskcache``,
        ``shelve``.
    read_only : bool, optional
        Whether to refuse writes.

    Raises
    ------
    TypeError
        ``mapping`` is no mutable mapping.
    StoreOptionError
        A shelf on a dbm that is bound to the thread that opened it.

    Notes
    -----
    **Threads and event loops**: any number of both may share one store. The async methods run the synchronous ones
    in a thread, or at once where the mapping never blocks. Foreign mappings are called under one lock, shared by
    every store around the same object.

    **Processes and durability**: those of the mapping. **Pickling**: that of the mapping; a plain dict is copied,
    with a warning. **Closing** releases the connections of a ByteMapping, and any later use takes them again; a
    foreign mapping stays open, since it is its owner's.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True
    looks_again: bool = True  # streams do, where parts of a value have to be of one version and reads tell none

    def __init__(self, mapping: MutableMapping[str, bytes], *, read_only: bool = False) -> None:
        if not isinstance(mapping, MutableMapping):
            raise TypeError(f"a MappingStore is made around a mutable mapping, not a {type(mapping).__name__}")
        super().__init__(read_only=read_only)
        self._bytes = mapping if isinstance(mapping, ByteMapping) else ForeignMapping(mapping)

    @property
    def mapping(self) -> MutableMapping[str, bytes]:
        """The mapping that was given."""
        return self._bytes.wrapped if isinstance(self._bytes, ForeignMapping) else self._bytes

    @property
    def place(self) -> str | None:
        """The identity of what is stored where, as a URL without credentials; None where there is none."""
        return self._bytes.place

    @property
    def durable_on_write(self) -> bool:
        """Whether a write that returned is published; if not, `flush` does it."""
        return self._bytes.durable_on_write

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._bytes!r}{', read_only=True' if self.read_only else ''})"

    def __str__(self) -> str:
        return self.place or f"mapping://{id(self.mapping)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.read_only == other.read_only and bool(self._bytes == other._bytes)

    __hash__ = None  # type: ignore[assignment]  # as zarr's stores

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._bytes, self.read_only)

    def with_read_only(self, read_only: bool = False) -> MappingStore:  # noqa: FBT001, FBT002  # zarr's signature
        return type(self)(self._bytes, read_only=read_only)

    def flush(self) -> None:
        """Publish what is pending, where a write alone does not."""
        self._bytes.flush()

    def close(self) -> None:
        """Release the mapping's connections; any later use takes them again."""
        self._bytes.close()
        super().close()

    # -- synchronous, each once ---------------------------------------------------------------------------------------

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of a key, or a range of it; None where the key is absent."""
        self._is_open = True
        try:
            value = self._bytes[key] if byte_range is None else self._bytes.read(key, *bounds(byte_range))
        except KeyError:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(value)

    @property
    def reads_together(self) -> bool:
        """Whether `get_many_sync` costs less than as many single reads."""
        return type(self._bytes).read_many is not ByteMapping.read_many

    def get_many_sync(self, keys: Sequence[str], *, prototype: BufferPrototype | None = None) -> list[Buffer | None]:
        """Return the values of many keys, in their order; None for those that are absent.

        Parameters
        ----------
        keys : sequence of str
            The keys.
        prototype : BufferPrototype, optional
            What the values are made with; default zarr's own.
        """
        self._is_open = True
        found = self._bytes.read_many(keys)
        make = (prototype or default_buffer_prototype()).buffer.from_bytes
        return [make(found[key]) if key in found else None for key in keys]

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a value; when it returns, the value is stored and the caller's buffer is free."""
        self._check_writable()
        self._is_open = True
        self._bytes[key] = content(value)

    def delete_sync(self, key: str) -> None:
        """Remove a key if it is there."""
        self._check_writable()
        self._is_open = True
        self._bytes.discard(key)

    def set_many_sync(self, items: Iterable[tuple[str, Buffer]]) -> None:
        """Write many values: in one transaction where the mapping has such.

        Parameters
        ----------
        items : iterable of (str, Buffer)
            Keys and values.

        Raises
        ------
        PartialWriteError
            Where there are no transactions: a write failed after others had succeeded; ``written`` names these.
        """
        self._check_writable()
        self._is_open = True
        self._bytes.update_many((key, content(value)) for key, value in items)

    # -- the same, awaited --------------------------------------------------------------------------------------------

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._is_open = True
        if self._bytes.never_blocks:
            return work(*args, **kwargs)
        return await asyncio.to_thread(occupying(work), *args, **kwargs)

    def _kept(self, value: Buffer) -> Buffer:
        """Return a value for `_call`: a mapping that never blocks has copied it before anybody can take it back."""
        content(value)  # anything that is no Buffer is told at once
        return value if self._bytes.never_blocks else owned(value)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await self._call(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        wanted = list(key_ranges)
        return await self._call(
            lambda: [self.get_sync(key, prototype=prototype, byte_range=byte_range) for key, byte_range in wanted]
        )

    if hasattr(Store, "get_ranges_sync"):  # zarr 3.4 and later

        def get_ranges_sync(
            self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **limits: int
        ) -> Sequence[tuple[int, Buffer | None]]:
            if type(self._bytes).read_ranges is ByteMapping.read_ranges:
                return super().get_ranges_sync(key, byte_ranges, prototype=prototype, **limits)
            self._is_open = True
            try:
                values = self._bytes.read_ranges(key, [bounds(byte_range) for byte_range in byte_ranges])
            except KeyError:
                raise BaseExceptionGroup(f"{key!r} is absent", [FileNotFoundError(key)]) from None  # as zarr's own
            return [(number, prototype.buffer.from_bytes(value)) for number, value in enumerate(values)]

        async def get_ranges(
            self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **limits: int
        ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
            if type(self._bytes).read_ranges is ByteMapping.read_ranges:
                async for group in super().get_ranges(key, byte_ranges, prototype=prototype, **limits):
                    yield group
            else:
                yield await self._call(self.get_ranges_sync, key, byte_ranges, prototype=prototype)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self._call(self.set_sync, key, self._kept(value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self._call(self._bytes.setdefault, key, content(self._kept(value)))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        self._check_writable()
        await self._call(self.set_many_sync, [(key, self._kept(value)) for key, value in values])

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self._call(self.delete_sync, key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove every key beneath a path; ``""`` is the root. The key that is the path itself stays."""
        self._check_writable()
        path = prefix.rstrip("/")
        if path or not prefix:  # slashes alone name nothing, least of all everything
            await self._call(self._bytes.clear_under, path)

    async def clear(self) -> None:
        self._check_writable()
        await self._call(self._bytes.clear)

    async def exists(self, key: str) -> bool:
        return await self._call(self._bytes.__contains__, key)

    async def getsize(self, key: str) -> int:
        try:
            return await self._call(self._bytes.size, key)
        except KeyError:
            raise FileNotFoundError(key) from None

    async def getsize_prefix(self, prefix: str) -> int:
        under = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
        return await self._call(lambda: sum(size for _, size in self._bytes.sizes_under(under)))

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._listed(lambda: self._bytes.keys_under(prefix)):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in self._listed(lambda: self._bytes.children(prefix.rstrip("/"))):
            yield name

    async def _listed(self, begin: Callable[[], Iterator[str]]) -> AsyncIterator[str]:
        names = await self._call(begin)
        while page := await self._call(lambda: list(islice(names, _KEYS_AT_ONCE))):
            for name in page:
                yield name


def _restore(store: type[MappingStore], mapping: ByteMapping, read_only: bool) -> MappingStore:  # noqa: FBT001  # pickle
    return store(mapping, read_only=read_only)
