"""`RemoteStore`: a prefix in a bucket of S3, Google Cloud Storage or Azure, as a zarr store that never lies."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from zarrstream.concurrency.tasks import for_each, together
from zarrstream.errors import StoreUnavailableError, ZarrStreamError, raise_alone
from zarrstream.mappings.absence import SeenNodes, documents
from zarrstream.stores.buckets import errors as remote_errors
from zarrstream.stores.buckets import failures as remote_failures
from zarrstream.stores.buckets.bucket import batched
from zarrstream.stores.buckets.clients import Clients
from zarrstream.stores.buckets.listing import Listing, is_marker
from zarrstream.stores.buckets.session import AbsentError, Session, translated
from zarrstream.stores.buffers import bounds, content

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from zarrstream.stores.buckets.bucket import Bucket
    from zarrstream.stores.buckets.location import RemotePlace

    Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

T = TypeVar("T")
_AT_ONCE = 16  # requests of one call, where nobody has set a limit


class RemoteStore(Store):
    """The objects beneath a prefix in a bucket, by key.

    Parameters
    ----------
    place : RemotePlace
        Which bucket, and how it is reached: what `zarrstream.stores.buckets.options` makes of a URL or of parts.
    read_only : bool, optional
        Whether to refuse writes.
    missing_on_403 : bool, optional
        Whether a refusal of a single key counts as its absence: S3 refuses keys that are not there to users who may
        not list. The array's own metadata must be readable all the same.

    Notes
    -----
    **Absence** is believed only of a place that is there: a missing chunk after a look at its array's metadata that
    began after the miss, anything else after a look at the bucket. A lost bucket or prefix is `StoreUnavailableError`,
    never fill values.

    **Threads, event loops, processes**: any number of each; every loop of every process has a client of its own, which
    ends with the loop or with `close`. **Atomicity**: one object at a time; `set_if_not_exists` is a conditional
    request, so that one of many wins. **Durability**: a write that returned is stored as the service promises.
    **Pickling**: what was given explicitly goes along, credentials included (a pickle is then a secret), and what has
    been seen of the place; credentials of the environment do not. **Retries**: none here; see
    `zarrstream.stores.wrappers.resilient`.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True
    looks_again: bool = True  # streams do, where parts of an object have to be of one version and reads tell none

    def __init__(self, place: RemotePlace, *, read_only: bool = False, missing_on_403: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._place = place
        self._missing_on_403 = missing_on_403
        self._seen = SeenNodes()
        self._clients: Clients[Session] = Clients(
            lambda: Session(place.connect(), place, missing_on_403=missing_on_403)
        )

    @property
    def place(self) -> str:
        """The identity of what is stored where, as a URL without credentials."""
        return str(self._place)

    @property
    def whole_place(self) -> tuple[str, str]:
        """The bucket, as every store in it names it, and where this one's keys begin."""
        return self._place.whole

    @property
    def limited_place(self) -> str:
        """What shares one limit of requests: the bucket, whatever the prefix."""
        return self._place.container

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place!r}{', read_only=True' if self.read_only else ''})"

    def __str__(self) -> str:
        return self.place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self._place, self.read_only) == (other._place, other.read_only)

    __hash__ = None  # type: ignore[assignment]  # as zarr's stores

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._place, self.read_only, self._missing_on_403, tuple(self._seen))

    def with_read_only(self, read_only: bool = False) -> RemoteStore:  # noqa: FBT001, FBT002  # zarr's signature
        made = type(self)(self._place, read_only=read_only, missing_on_403=self._missing_on_403)
        made._clients, made._seen = self._clients, self._seen  # noqa: SLF001  # of its own class
        return made

    def close(self) -> None:
        """Close the connections, and forget what was seen; any later use connects again."""
        self._clients.close()
        self._seen.forget()
        super().close()

    # -- values -------------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        start, stop = bounds(byte_range)
        session = await self._session()
        try:
            async with session.errors(key):
                value = await self._ranged(session.bucket, key, start, stop)
        except AbsentError:
            value = None
        if value is None:  # outside of what handled the client's error, which would stay in sight of ours
            await self._believe(session, key)
            return None
        self._seen.saw(key, value)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(value)

    async def _ranged(self, bucket: Bucket, key: str, start: int, stop: int | None) -> Any:
        name = self._place.name(key)
        if stop is None or stop > start:
            try:
                return await bucket.get(name, start, stop)
            except Exception as error:
                ranged = start != 0 or stop is not None
                if not ranged or remote_errors.failure(error, self._place.back_end) is not remote_failures.RANGE:
                    raise
                refused = error
            size = await bucket.size(name)
            if start < size and (start >= 0 or size > 0):
                raise refused  # the range is there: the server was wrong
            return b""
        await bucket.size(name)  # nothing is asked for, of what has to be there all the same
        return b""

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await together((self.get(key, prototype, byte_range) for key, byte_range in key_ranges))

    async def set(self, key: str, value: Buffer) -> None:
        await self._put(key, value, create=False)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._put(key, value, create=True)

    async def _put(self, key: str, value: Buffer, *, create: bool) -> None:
        self._check_writable()
        raw = content(value)
        session = await self._session()
        async with session.errors(key, writes=True):
            try:
                await session.bucket.put(self._place.name(key), raw, create=create)
            except FileExistsError:
                if not create:
                    raise
        self._seen.saw(key, raw)

    async def delete(self, key: str) -> None:
        self._check_writable()
        session = await self._session()
        with self._seen.removing((key,)):
            async with session.errors(key, writes=True):
                await session.bucket.delete([self._place.name(key)])

    async def delete_dir(self, prefix: str) -> None:
        """Remove every key beneath a path; ``""`` is the root. The key that is the path itself stays."""
        self._check_writable()
        await self.delete_dir_through(prefix, _directly, at_once=_AT_ONCE)

    async def delete_dir_through(self, prefix: str, ask: Ask, *, at_once: int) -> None:
        """Remove every key beneath a path, request by request.

        Parameters
        ----------
        prefix : str
            The path.
        ask : callable
            Awaits a function that makes one request, and may await it again after an error.
        at_once : int
            How many requests at a time. After the first failure none begins any more.
        """
        self._check_writable()
        path = prefix.rstrip("/")
        if prefix and not path:  # slashes alone name nothing, least of all everything
            return
        more = self._paging(prefix, lambda bucket: bucket.pages(self._place.name(f"{path}/" if path else "")))

        async def batches() -> AsyncIterator[Sequence[str]]:
            while (page := await ask(more)) is not None:
                session = await self._session()
                for names in batched([name for name, _ in page], session.bucket.deletes_at_once):
                    yield names

        async def remove(names: Sequence[str]) -> None:
            session = await self._session()
            async with session.errors(prefix, writes=True):
                await session.bucket.delete(names)

        with self._seen.removing(under=path):
            await for_each(batches(), lambda names: ask(partial(remove, names)), at_once=at_once)

    async def clear(self) -> None:
        await self.delete_dir("")

    async def exists(self, key: str) -> bool:
        try:
            await self.getsize(key)
        except FileNotFoundError:
            return False
        return True

    async def getsize(self, key: str) -> int:
        session, size = await self._session(), None
        try:
            async with session.errors(key):
                size = await session.bucket.size(self._place.name(key))
        except AbsentError:
            pass
        if size is None:
            await self._believe(session, key)
            raise FileNotFoundError(key)
        self._seen.saw(key)
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        return await self.getsize_prefix_through(prefix, _directly)

    async def getsize_prefix_through(self, prefix: str, ask: Ask) -> int:
        """Return how many bytes there are beneath a path, request by request: see `delete_dir_through`."""
        under = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
        more, total = self._paging(prefix, lambda bucket: bucket.pages(self._place.name(under))), 0
        while (page := await ask(more)) is not None:
            total += sum(size for _, size in page)
        return total

    # -- keys ---------------------------------------------------------------------------------------------------------

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        more = self._paging(prefix, lambda bucket: bucket.pages(self._place.name(prefix)))

        async def keys() -> list[str] | None:
            page = await more()
            named = None if page is None else [self._place.key(name) for name, _ in page]
            return None if named is None else [key for key in named if not is_marker(key)]

        return Listing(keys)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        path = prefix.rstrip("/")
        more = self._paging(prefix, lambda bucket: bucket.level(self._place.name(f"{path}/" if path else "")))
        told = {""}

        async def names() -> list[str] | None:
            page = await more()
            new = None if page is None else [name for name in dict.fromkeys(page) if name not in told]
            told.update(new or ())
            return new

        return Listing(names)

    def _paging(self, prefix: str, begin: Callable[[Bucket], AsyncIterator[T]]) -> Callable[[], Awaitable[T | None]]:
        """Return a function that asks for the next page, or again for one that failed; None at the end."""
        begun: list[tuple[Session, AsyncIterator[T]]] = []

        async def more() -> T | None:
            session = begun[0][0] if begun else await self._session()
            async with session.errors(prefix, writes=True):
                bucket = session.bucket  # which raises where it was closed meanwhile
                if not begun:
                    begun.append((session, begin(bucket)))
                return await anext(begun[0][1], None)

        return more

    # -- what is believed ---------------------------------------------------------------------------------------------

    async def _believe(self, session: Session, key: str) -> None:
        """Return if a key that was not found is absent indeed; raise if its place is lost."""
        node = self._seen.node_of(key)
        await session.probes.join(node, lambda: self._look(session, node))

    async def _look(self, session: Session, node: str | None) -> None:
        if node is not None:
            for key in documents(node):
                try:
                    async with session.errors(key):
                        await session.bucket.size(self._place.name(key))
                except AbsentError:
                    continue
                return
        try:
            async with session.errors("", writes=True):
                await session.bucket.answer(self._place.name(""))
        except ZarrStreamError as error:
            if not self._missing_on_403 or remote_errors.status_of(error) != 403:  # noqa: PLR2004  # Forbidden
                raise
        if node is not None:
            lost = StoreUnavailableError(
                f"{self.place} is lost: the metadata of {node!r} were there before, and are not now. "
                f"Restore them, or close() the store to begin anew"
            )
            lost.passes = False
            raise lost

    async def _session(self) -> Session:
        self._is_open = True
        try:
            return await self._clients.get()
        except Exception as error:  # noqa: BLE001  # the table knows which
            raise_alone(translated(error, remote_errors.failure(error, self._place.back_end), self._place))


async def _directly(request: Callable[[], Awaitable[T]]) -> T:
    return await request()


def _restore(
    cls: type[RemoteStore],
    place: RemotePlace,
    read_only: bool,  # noqa: FBT001  # as it was pickled
    missing_on_403: bool,  # noqa: FBT001
    seen: tuple[str, ...],
) -> RemoteStore:
    store = cls(place, read_only=read_only, missing_on_403=missing_on_403)
    store._seen = SeenNodes(seen)
    return store
