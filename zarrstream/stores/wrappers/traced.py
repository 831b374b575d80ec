"""`TracedStore`: a span and a metric at each of zarr's doors, for any store."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype

from zarrstream import identity
from zarrstream.stores.call import Call
from zarrstream.stores.wrappers.interceptor import StoreLike, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_SERVERS = {"mongodb", "postgresql"}  # those that are other processes


class TracedStore(Wrapper):
    """A store whose calls OpenTelemetry sees: a span for each, ``zarrstream.store.get`` and so on, and a duration.

    So that plain zarr, xarray and dask are seen, too. Under a stream the spans are children of its chunks'.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What is wrapped.

    Notes
    -----
    Where no provider is set, a call costs a few microseconds more, and nothing else happens. An absent key is no error,
    and says so; a call that was cancelled is none either. Ranges of one value are merged as zarr merges them, and each
    request that results is a ``get``. **Threads, event loops, processes, durability, pickling**: as ``store``. What
    else the store offers (``flush``, ``transaction``, …) is reached through this one.
    """

    def __init__(self, store: StoreLike) -> None:
        super().__init__(store)
        store = self._store
        kind, database = identity.kind_of(store), identity.database_of(store)
        self._about = {"zarrstream.store": kind, **database}
        self._is_remote = database.get("db.system.name") in _SERVERS

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store!r})"

    def __str__(self) -> str:
        return str(self._store)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the store offers beside zarr's verbs
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._store, name)
        watched = _BESIDE.get(name)
        return found if watched is None else partial(watched, self, found)

    # -- values --------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        with self._told("get", key) as found:
            return _seen(found, await self._store.get(key, prototype or default_buffer_prototype(), byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        wanted = list(key_ranges)
        with self._told("get_partial_values") as found:
            return _seen_all(found, await self._store.get_partial_values(prototype, wanted))

    async def set(self, key: str, value: Buffer) -> None:
        with self._told("set", key, nbytes=value):
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with self._told("set_if_not_exists", key, nbytes=value):
            await self._store.set_if_not_exists(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        items = list(values)
        with self._told("set_many") as found:
            found["zarrstream.store.keys"] = len(items)
            await self._store._set_many(items)  # noqa: SLF001  # as zarr's own wrapper does

    async def exists(self, key: str) -> bool:
        with self._told("exists", key) as found:
            there = await self._store.exists(key)
            found["zarrstream.store.missing"] = not there
        return there

    async def getsize(self, key: str) -> int:
        with self._told("getsize", key):
            return await self._store.getsize(key)

    async def getsize_prefix(self, prefix: str) -> int:
        with self._told("getsize_prefix", prefix):
            return await self._store.getsize_prefix(prefix)

    async def delete(self, key: str) -> None:
        with self._told("delete", key):
            await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._told("delete_dir", prefix):
            await self._store.delete_dir(prefix)

    async def clear(self) -> None:
        with self._told("clear"):
            await self._store.clear()

    # -- the same in the calling thread, where the store has it --------------------------------------------------------

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        inner: Any = self._store
        with self._told("get", key) as found:
            return _seen(found, inner.get_sync(key, prototype=prototype, byte_range=byte_range))

    def set_sync(self, key: str, value: Buffer) -> None:
        inner: Any = self._store
        with self._told("set", key, nbytes=value):
            inner.set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        inner: Any = self._store
        with self._told("delete", key):
            inner.delete_sync(key)

    def _get_many_sync(self, inner: Any, keys: Sequence[str], **options: Any) -> list[Buffer | None]:  # noqa: ANN401
        with self._told("get_many") as found:
            return _seen_all(found, inner(keys, **options))

    def _set_many_sync(self, inner: Any, items: Iterable[tuple[str, Buffer]]) -> None:  # noqa: ANN401
        values = list(items)
        with self._told("set_many") as found:
            found["zarrstream.store.keys"] = len(values)
            inner(values)

    # -- keys ----------------------------------------------------------------------------------------------------------

    async def is_empty(self, prefix: str) -> bool:
        with self._told("is_empty", prefix):
            return await self._store.is_empty(prefix)

    def list(self) -> AsyncIterator[str]:
        return self._listed("list", "", self._store.list)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return self._listed("list_prefix", prefix, partial(self._store.list_prefix, prefix))

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return self._listed("list_dir", prefix, partial(self._store.list_dir, prefix))

    async def _listed(self, operation: str, prefix: str, begin: Callable[[], AsyncIterator[str]]) -> AsyncIterator[str]:
        """Pass a listing on; only while it is asked for more is its span the current one."""
        call = Call(self._about, operation, prefix, remote=self._is_remote)
        error: BaseException | None = None
        count = 0
        try:
            names = begin()
            while True:
                with call.inside():
                    name = await anext(names, None)
                if name is None:
                    break
                count += 1
                yield name
        except Exception as raised:
            error = raised
            raise
        finally:
            call.found["zarrstream.store.keys"] = count
            call.end(error)

    # -- transactions, where the store has them ------------------------------------------------------------------------

    @contextmanager
    def _bound(self, inner: Any, *args: Any, **options: Any) -> Iterator[TracedStore]:  # noqa: ANN401
        with inner(*args, **options) as store:
            yield type(self)(store)

    def _in_transaction(self, inner: Any, work: Callable[[TracedStore], Any], **options: Any) -> Any:  # noqa: ANN401
        return inner(lambda store: work(type(self)(store)), **options)

    # -- calls ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _told(self, operation: str, key: str = "", *, nbytes: Buffer | None = None) -> Iterator[dict[str, Any]]:
        """Surround a call; what it found is told at its end."""
        call = Call(self._about, operation, key, remote=self._is_remote)
        if nbytes is not None and hasattr(nbytes, "__len__"):
            call.found["zarrstream.store.bytes"] = len(nbytes)
        error: BaseException | None = None
        try:
            with call.inside():
                yield call.found
        except BaseException as raised:
            error = raised
            raise
        finally:
            call.end(error)


_BESIDE: dict[str, Any] = {
    "get_many_sync": TracedStore._get_many_sync,  # noqa: SLF001  # of the class above
    "in_transaction": TracedStore._in_transaction,  # noqa: SLF001
    "set_many_sync": TracedStore._set_many_sync,  # noqa: SLF001
    "snapshot": TracedStore._bound,  # noqa: SLF001
    "transaction": TracedStore._bound,  # noqa: SLF001
}


def _seen(found: dict[str, Any], value: Buffer | None) -> Buffer | None:
    found["zarrstream.store.missing"] = value is None
    if value is not None:
        found["zarrstream.store.bytes"] = len(value)
    return value


def _seen_all(found: dict[str, Any], values: list[Buffer | None]) -> list[Buffer | None]:
    found["zarrstream.store.keys"] = len(values)
    found["zarrstream.store.bytes"] = sum(len(value) for value in values if value is not None)
    return values
