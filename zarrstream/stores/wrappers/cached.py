"""`CachedStore`: any store, with a cache of its chunks that is bounded, shared by processes, and never stale."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from zarr.core.buffer import default_buffer_prototype

from zarrstream import telemetry
from zarrstream.concurrency.one_version import asked_version
from zarrstream.concurrency.tasks import together
from zarrstream.errors import StoreOptionError
from zarrstream.mappings.absence import METADATA_KEYS
from zarrstream.stores.buffers import bounds, content, fits
from zarrstream.stores.flights import Flights
from zarrstream.stores.wrappers.cache_places import place_and_prefix
from zarrstream.stores.wrappers.interceptor import StoreLike, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from zarrstream.stores.wrappers.chunk_cache import ChunkCache, Ticket

T = TypeVar("T")
_FLIGHTS: Flights[Buffer] = Flights()


class CachedStore(Wrapper):
    """A store whose chunks are kept nearer, once they have been read.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What is wrapped.
    cache : ChunkCache
        Where the chunks are kept, and how many bytes of them.

    Raises
    ------
    StoreOptionError
        The cache lies where the store does.

    Notes
    -----
    It is assumed that the stored chunks do not change but through a CachedStore on the same cache, in any process; all
    of their mutators, `with_read_only` copies, and removals of whole prefixes are heeded, and a change is seen by
    every read that begins after it. Metadata are not kept, nor is what is missing, nor an error. Ranges are kept as
    such. Equal misses of one moment are one request per process. A cache that fails is done without.

    **Threads, event loops**: any number. **Processes, pickling**: as the store and the cache's mapping. A store
    without a place of its own (`zarr.storage.MemoryStore`) has its part of the cache to itself, while it lives.
    """

    def __init__(self, store: StoreLike, cache: ChunkCache) -> None:
        super().__init__(store)
        store = self._store
        if getattr(store, "place", None) == cache.mapping.place:
            raise StoreOptionError(f"{cache.mapping.place} cannot be its own cache: name another place")
        self.cache = cache
        self._place, self._prefix = place_and_prefix(store)

    @property
    def place(self) -> str | None:
        """That of the store, where it has one."""
        return getattr(self._store, "place", None)

    def _with_store(self, store: Store) -> Self:
        made = type(self)(store, self.cache)
        made._place, made._prefix = self._place, self._prefix  # noqa: SLF001  # of its own class, and the same chunks
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self.cache)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r}, {self.cache!r})"

    def __str__(self) -> str:
        return str(self._store)

    def close(self) -> None:
        """Close the store, and the cache's connections; what is kept stays."""
        super().close()
        self.cache.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        made = prototype or default_buffer_prototype()
        kept, ticket = self._look(key, byte_range)
        if kept is not None:
            return made.buffer.from_bytes(kept)
        if ticket is None:
            return await self._store.get(key, made, byte_range)

        async def fetch() -> Buffer | None:
            value = await self._store.get(key, made, byte_range)
            if value is not None and fits(len(value), byte_range):
                with suppress(RuntimeError):  # the interpreter ends, and there are no threads any more
                    await asyncio.to_thread(self.cache.keep, self._place, self._prefix + key, ticket, content(value))
            return value

        return await _FLIGHTS.ask(self._flight(ticket), fetch)  # type: ignore[arg-type]  # None: nothing

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        inner: Any = self._store
        kept, ticket = self._look(key, byte_range)
        if kept is not None:
            return (prototype or default_buffer_prototype()).buffer.from_bytes(kept)

        def fetch() -> Buffer | None:
            value: Buffer | None = inner.get_sync(key, prototype=prototype, byte_range=byte_range)
            if value is not None and ticket is not None and fits(len(value), byte_range):
                self.cache.keep(self._place, self._prefix + key, ticket, content(value))
            return value

        if ticket is None:
            return fetch()
        return _FLIGHTS.ask_sync(self._flight(ticket), fetch)  # type: ignore[arg-type]  # as above

    def _flight(self, ticket: Ticket) -> tuple[object, ...]:
        """Return what two misses have in common that are one request: also the version that is asked for."""
        asked = asked_version()
        return str(self.cache.mapping.place), ticket, None if asked is None else asked.version

    def _look(self, key: str, byte_range: ByteRequest | None) -> tuple[Any | None, Ticket | None]:
        """Return what is kept, or None and a ticket; neither for what is not to be kept."""
        if _is_metadata(key) or not self.durable_on_write:
            return None, None
        start, stop = bounds(byte_range)
        kept, ticket = self.cache.get(self._place, self._prefix + key, f"{start}-{'' if stop is None else stop}")
        telemetry.cache_asked(kept is not None)
        return kept, ticket

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await together(self.get(key, prototype, byte_range) for key, byte_range in key_ranges)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _change(self, path: str, *, beneath: bool = False) -> AbstractContextManager[None]:
        return self.cache.changing(
            self._place, (self._prefix + path).rstrip("/") if beneath else self._prefix + path, beneath=beneath
        )

    @asynccontextmanager
    async def _changing(self, keys: Iterable[str], *, beneath: bool = False) -> AsyncIterator[None]:
        """Forget keys, or what is beneath them, around a change; in a thread, as other processes may be waited for."""
        with ExitStack() as changes:  # which ends what is left of them, where nobody awaits it any more
            try:
                for key in keys:
                    await _to_its_end(changes.enter_context, self._change(key, beneath=beneath))
                    if not beneath and _is_metadata(key) and not await self._store.exists(key):
                        await _to_its_end(changes.enter_context, self._change(key.rpartition("/")[0], beneath=True))
                yield
            except GeneratorExit:
                raise
            except BaseException:
                await _to_its_end(changes.close)
                raise
            await _to_its_end(changes.close)

    @contextmanager
    def _changing_sync(self, keys: Iterable[str]) -> Iterator[None]:
        inner: Any = self._store
        with ExitStack() as changes:
            for key in keys:
                changes.enter_context(self._change(key))
                # A node that is made where none was: of one that was removed by hand, chunks may be kept.
                if _is_metadata(key) and inner.get_sync(key) is None:
                    changes.enter_context(self._change(key.rpartition("/")[0], beneath=True))
            yield

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        async with self._changing([key]):
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        async with self._changing([key]):
            await self._store.set_if_not_exists(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        kept = list(values)
        async with self._changing([key for key, _ in kept]):
            await self._store._set_many(kept)  # noqa: SLF001  # zarr's name for it

    async def delete(self, key: str) -> None:
        self._check_writable()
        async with self._changing([key]):
            await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        async with self._changing([prefix], beneath=True):
            await self._store.delete_dir(prefix)

    async def clear(self) -> None:
        self._check_writable()
        async with self._changing([""], beneath=True):
            await self._store.clear()

    def set_sync(self, key: str, value: Buffer) -> None:
        inner: Any = self._store
        self._check_writable()
        with self._changing_sync([key]):
            inner.set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        inner: Any = self._store
        self._check_writable()
        with self._changing_sync([key]):
            inner.delete_sync(key)

    @property
    def set_many_sync(self) -> Callable[[Iterable[tuple[str, Buffer]]], None]:
        """That of the store; `AttributeError` where it has none."""
        inner: Any = self._store
        many = inner.set_many_sync

        def set_many_sync(items: Iterable[tuple[str, Buffer]]) -> None:
            kept = list(items)
            with self._changing_sync([key for key, _ in kept]):
                many(kept)

        return set_many_sync

    # -- transactions --------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Store]:
        """Begin a transaction of the store, around which all that is kept of it is forgotten."""
        inner: Any = self._store
        with self._change("", beneath=True), inner.transaction() as bound:
            yield bound

    def in_transaction(self, work: Callable[[Any], T], *, attempts: int = 5) -> T:
        """Run a function in a transaction of the store, and again where that is in conflict with another one."""
        inner: Any = self._store
        with self._change("", beneath=True):
            return cast("T", inner.in_transaction(work, attempts=attempts))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the store offers beside zarr's verbs
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._store, name)

    @property
    def get_many_sync(self) -> Callable[..., list[Buffer | None]]:
        """One after the other, out of the cache where they are there; `AttributeError` where the store has none."""
        inner: Any = self._store
        inner.get_many_sync  # noqa: B018  # asked for its absence

        def get_many_sync(keys: Sequence[str], *, prototype: BufferPrototype | None = None) -> list[Buffer | None]:
            return [self.get_sync(key, prototype=prototype) for key in keys]

        return get_many_sync

    # -- what else streams ask for -------------------------------------------------------------------------------------

    @property
    def durable_on_write(self) -> bool:
        """That of the store."""
        return bool(getattr(self._store, "durable_on_write", True))

    def flush(self) -> None:
        """Publish what is pending in the store, where it has such."""
        flush: Callable[[], object] | None = getattr(self._store, "flush", None)
        if flush is not None:
            flush()


async def _to_its_end(function: Callable[..., object], *arguments: object) -> None:
    """Call what may wait in a thread; a task that is cancelled meanwhile is so when it has returned, and not before."""
    # In the task's context, as `asyncio.to_thread` does; what that returns would be cancelled with the loop's tasks.
    called = asyncio.get_running_loop().run_in_executor(None, copy_context().run, function, *arguments)
    cancelled: asyncio.CancelledError | None = None
    while not called.done():
        try:
            await asyncio.wait([called])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from called.exception()
    called.result()


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in METADATA_KEYS
