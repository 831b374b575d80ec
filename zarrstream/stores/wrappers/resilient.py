"""`ResilientStore`: any store, with retries, deadlines, and a limit of requests that holds."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from zarr.core.buffer import default_buffer_prototype

from zarrstream import telemetry
from zarrstream.concurrency.tasks import together
from zarrstream.errors import StoreError, StoreOptionError, StoreTimeoutError
from zarrstream.identity import identity_of
from zarrstream.stores.limits import Limit, limit_of
from zarrstream.stores.slots import call_within
from zarrstream.stores.wrappers.interceptor import StoreLike, Wrapper
from zarrstream.stores.wrappers.retry import Retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from zarrstream.stores.slots import Slot


T = TypeVar("T")
_NAMES_AT_ONCE = 1000
_REMEMBERED = 1_000_000  # names of a listing, with which it can be begun again
_AT_ONCE = 16  # requests of one call, where there is no limit
_MOST_AT_ONCE = 64


class ResilientStore(Wrapper):
    """A store whose calls are made again where their failure passes, end in time, and are never too many at once.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What is wrapped.
    retry : Retry, optional
        How often and how long; None for once, and for as long as it takes.
    max_concurrency : int, optional
        How many calls may be under way at the store's place: one limit for all stores of this process there, whatever
        their threads and event loops. Throttling halves it, and success restores it.
    rate : float, optional
        How many calls may begin there per second.

    Raises
    ------
    StoreOptionError
        A number that is none.

    Notes
    -----
    **Threads, event loops**: any number of each. **Processes**: a limit is one process's. **Pickling**: as the store;
    retry and limits go along. A listing that fails goes on where it was, in a bucket with the page that failed;
    elsewhere it is begun again, and passes over what it has told, up to a million names. Values are whole before an
    attempt begins, so that each sends the same bytes.
    """

    def __init__(
        self,
        store: StoreLike,
        *,
        retry: Retry | None = None,
        max_concurrency: int | None = None,
        rate: float | None = None,
    ) -> None:
        super().__init__(store)
        store = self._store
        if retry is not None and not isinstance(retry, Retry):
            raise StoreOptionError(f"retry is a zarrstream.Retry(attempts=…, deadline=…), or None, not {retry!r}")
        self.retry = retry
        self._options: dict[str, Any] = {"retry": retry, "max_concurrency": max_concurrency, "rate": rate}
        self._shared = str(getattr(store, "limited_place", None) or identity_of(store) or store)
        self.limit: Limit = limit_of(self._shared, max_concurrency=max_concurrency, rate=rate)

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, **self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._store, self._options)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options.items() if value is not None)
        return f"{type(self).__name__}({self._store!r}{options})"

    def __str__(self) -> str:
        return str(self._store)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the store offers beside zarr's verbs
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._store, name)

    # -- values --------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        made = prototype or default_buffer_prototype()
        return await self._call("get", key, lambda: self._store.get(key, made, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await together(self.get(key, prototype, byte_range) for key, byte_range in key_ranges)

    async def set(self, key: str, value: Buffer) -> None:
        await self._call("set", key, lambda: self._store.set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._call("set_if_not_exists", key, lambda: self._store.set_if_not_exists(key, value))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await together(self.set(key, value) for key, value in values)

    async def exists(self, key: str) -> bool:
        return await self._call("exists", key, lambda: self._store.exists(key))

    async def getsize(self, key: str) -> int:
        return await self._call("getsize", key, lambda: self._store.getsize(key))

    async def getsize_prefix(self, prefix: str) -> int:
        if (through := self._through("getsize_prefix")) is None:
            return await self._call("getsize_prefix", prefix, lambda: self._store.getsize_prefix(prefix))
        total: int = await through(prefix, partial(self._call, "getsize_prefix", prefix))
        return total

    async def is_empty(self, prefix: str) -> bool:
        return await self._call("is_empty", prefix, lambda: self._store.is_empty(prefix))

    async def delete(self, key: str) -> None:
        await self._call("delete", key, lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        if (through := self._through("delete_dir")) is None:
            await self._call("delete_dir", prefix, lambda: self._store.delete_dir(prefix))
        else:
            at_once = min(self.limit.size or _AT_ONCE, _MOST_AT_ONCE)
            await through(prefix, partial(self._call, "delete_dir", prefix), at_once=at_once)

    async def clear(self) -> None:
        if self._through("delete_dir") is None:
            await self._call("clear", "", self._store.clear)
        else:
            await self.delete_dir("")

    def _through(self, verb: str) -> Any:  # noqa: ANN401  # a method, or None
        """Return a verb of the store that makes its requests one by one: how many they are, nobody knows beforehand.

        Each of them has then the attempts and the time of one call. A class has it, and not what its class wraps.
        """
        name = f"{verb}_through"
        return getattr(self._store, name) if hasattr(type(self._store), name) else None

    # -- the same in the calling thread, where the store has it --------------------------------------------------------

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        inner: Any = self._store

        def work() -> Buffer | None:
            value: Buffer | None = inner.get_sync(key, prototype=prototype, byte_range=byte_range)
            return value

        return self._call_sync("get", key, work)

    def set_sync(self, key: str, value: Buffer) -> None:
        inner: Any = self._store
        self._call_sync("set", key, lambda: inner.set_sync(key, value))

    def delete_sync(self, key: str) -> None:
        inner: Any = self._store
        self._call_sync("delete", key, lambda: inner.delete_sync(key))

    @property
    def get_many_sync(self) -> Callable[..., list[Buffer | None]]:
        """That of the store, as one call; `AttributeError` where it has none."""
        inner: Any = self._store
        many = inner.get_many_sync

        def get_many_sync(keys: Sequence[str], *, prototype: BufferPrototype | None = None) -> list[Buffer | None]:
            return self._call_sync("get", ", ".join(keys[:1]), lambda: many(keys, prototype=prototype))

        return get_many_sync

    @property
    def set_many_sync(self) -> Callable[[Iterable[tuple[str, Buffer]]], None]:
        """That of the store, as one call; `AttributeError` where it has none."""
        inner: Any = self._store
        many = inner.set_many_sync

        def set_many_sync(items: Iterable[tuple[str, Buffer]]) -> None:
            kept = list(items)
            self._call_sync("set", ", ".join(key for key, _ in kept[:1]), lambda: many(kept))

        return set_many_sync

    # -- keys ----------------------------------------------------------------------------------------------------------

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return self._listing(prefix, lambda: self._store.list_prefix(prefix))

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return self._listing(prefix, lambda: self._store.list_dir(prefix))

    async def _listing(self, prefix: str, begin: Callable[[], AsyncIterator[str]]) -> AsyncIterator[str]:
        told = _Told(begin, self.retry.attempts if self.retry is not None else 1)
        try:
            while (names := await self._call("list", prefix, told.next_names)) is not None:
                for name in names:
                    yield name
        finally:
            await told.close()

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _call(self, operation: str, key: str, work: Callable[[], Awaitable[T]]) -> T:
        if self.retry is None:
            async with self.limit.slot():
                return await work()
        return await self.retry.run(work, _Call(self, operation, key))

    def _call_sync(self, operation: str, key: str, work: Callable[[], T]) -> T:
        if self.retry is None:
            return call_within(self.limit.slot(), work)
        return self.retry.run_sync(work, _Call(self, operation, key))


class _Call:
    """One call of a store's: see `zarrstream.stores.wrappers.retry.Call`."""

    def __init__(self, store: ResilientStore, operation: str, key: str) -> None:
        self._store, self._operation, self._key = store, operation, key
        self.slot: Slot | None = None

    def place(self) -> Slot:
        """Return the limit's slot for an attempt."""
        self.slot = self._store.limit.slot()
        return self.slot

    def __str__(self) -> str:
        return f"{self._operation} {self._key!r} of {self._store}"

    def again(self, error: BaseException) -> None:  # noqa: ARG002  # telemetry counts, the error itself is told at the end
        """Say that another attempt follows."""
        telemetry.retried(self._operation, telemetry.kind_of(self._store))


class _Told:
    """A listing that goes on after an error, or is begun again: what has been told is not told twice.

    Parameters
    ----------
    begin : callable
        Begins it.
    attempts : int
        How often it is begun again before a new name has come.
    """

    def __init__(self, begin: Callable[[], AsyncIterator[str]], attempts: int) -> None:
        self._begin, self._attempts = begin, attempts
        self._names: AsyncIterator[str] | None = None
        # Kept where a listing has to be begun again, since no order tells what was: a service lists "foo-bar/" before
        # "foo/", and others as they like.
        self._told: set[str] = set()
        self._got: list[str] = []
        self._failed: Exception | None = None
        self._failures = 0

    async def next_names(self) -> list[str] | None:
        """Return the next names, some at once, or none where all of some were known; None at the end."""
        if self._failed is not None and (self._failures >= self._attempts or len(self._told) > _REMEMBERED):
            raise self._failed
        if self._names is None:
            self._names = self._begin()
        goes_on, looked_at = getattr(self._names, "goes_on", False), 0
        try:
            async for name in self._names:
                looked_at += 1
                self._take(name, keep=not goes_on)
                if looked_at >= _NAMES_AT_ONCE:  # known ones, too: each call has its own time
                    break
        except BaseException as error:
            if not goes_on:
                await self._fail(error)
            raise
        got, self._got = self._got, []
        return got if looked_at or got else None  # which may have come before an error that nothing followed

    def _take(self, name: str, *, keep: bool) -> None:
        if name in self._told:
            return
        if keep:
            self._told.add(name)
        self._got.append(name)
        self._failed, self._failures = None, 0

    async def _fail(self, error: BaseException) -> None:
        await self.close()
        if isinstance(error, StoreError) and len(self._told) > _REMEMBERED:
            error.passes = False  # where to go on cannot be told
        ended = StoreTimeoutError("a listing did not go on in time")  # whoever gave it up was told so
        self._failed = error if isinstance(error, Exception) else ended
        self._failures += 1

    async def close(self) -> None:
        """Let the listing that runs go."""
        names, self._names = self._names, None
        if names is not None and hasattr(names, "aclose"):
            await names.aclose()


def _restore(cls: type[ResilientStore], store: Store, options: dict[str, Any]) -> ResilientStore:
    return cls(store, **options)
