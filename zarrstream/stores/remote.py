"""`RemoteStore`: a prefix in a bucket of S3, Google Cloud Storage or Azure, as a zarr store that never lies."""

# ruff: noqa: D102  # the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from zarrstream.errors import StoreUnavailableError, ZarrStreamError
from zarrstream.mappings.nodes import SeenNodes, documents
from zarrstream.stores import remote_errors, remote_failures
from zarrstream.stores.bucket import DELETED_AT_ONCE, batched
from zarrstream.stores.clients import Clients
from zarrstream.stores.connection import ClosedError
from zarrstream.stores.probes import Probes
from zarrstream.stores.values import bounds, content

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from zarrstream.stores.bucket import Bucket
    from zarrstream.stores.remote_location import RemotePlace


class RemoteStore(Store):
    """The objects beneath a prefix in a bucket, by key.

    Parameters
    ----------
    place : RemotePlace
        Which bucket, and how it is reached: what `zarrstream.stores.remote_places` makes of a URL or of parts.
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
    `zarrstream.stores.resilient`.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True

    def __init__(self, place: RemotePlace, *, read_only: bool = False, missing_on_403: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._place = place
        self._missing_on_403 = missing_on_403
        self._seen = SeenNodes()
        self._clients: Clients[_Session] = Clients(lambda: _Session(place.connect()))

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
            async with self._errors(session, key):
                value = await self._ranged(session.bucket, key, start, stop)
        except _AbsentError:
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
        return await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges))

    async def set(self, key: str, value: Buffer) -> None:
        await self._put(key, value, create=False)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._put(key, value, create=True)

    async def _put(self, key: str, value: Buffer, *, create: bool) -> None:
        self._check_writable()
        raw = content(value)
        session = await self._session()
        async with self._errors(session, key, writes=True):
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
            async with self._errors(session, key, writes=True):
                await session.bucket.delete([self._place.name(key)])

    async def delete_dir(self, prefix: str) -> None:
        """Remove every key beneath a path; ``""`` is the root. The key that is the path itself stays."""
        self._check_writable()
        path = prefix.rstrip("/")
        if prefix and not path:  # slashes alone name nothing, least of all everything
            return
        session, beneath = await self._session(), f"{path}/" if path else ""
        with self._seen.removing(under=path):
            async with self._errors(session, prefix, writes=True):
                async for page in session.bucket.pages(self._place.name(beneath)):
                    for names in batched([name for name, _ in page], DELETED_AT_ONCE):
                        await session.bucket.delete(names)

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Remove keys that may or may not be there, in one request where the service has such.

        Parameters
        ----------
        keys : sequence of str
            At most 1,000.
        """
        self._check_writable()
        session = await self._session()
        with self._seen.removing(keys):
            async with self._errors(session, keys[0], writes=True):
                await session.bucket.delete([self._place.name(key) for key in keys])

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
            async with self._errors(session, key):
                size = await session.bucket.size(self._place.name(key))
        except _AbsentError:
            pass
        if size is None:
            await self._believe(session, key)
            raise FileNotFoundError(key)
        self._seen.saw(key)
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        under = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
        session, total = await self._session(), 0
        async with self._errors(session, prefix, writes=True):
            async for page in session.bucket.pages(self._place.name(under)):
                total += sum(size for _, size in page)
        return total

    # -- keys ---------------------------------------------------------------------------------------------------------

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        session = await self._session()
        async with self._errors(session, prefix, writes=True):
            async for page in session.bucket.pages(self._place.name(prefix)):
                for name, _ in page:
                    yield self._place.key(name)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        path = prefix.rstrip("/")
        session, told = await self._session(), set()
        async with self._errors(session, prefix, writes=True):
            async for page in session.bucket.level(self._place.name(f"{path}/" if path else "")):
                for name in page:
                    if name and name not in told:
                        told.add(name)
                        yield name

    # -- what is believed ---------------------------------------------------------------------------------------------

    async def _believe(self, session: _Session, key: str) -> None:
        """Return if a key that was not found is absent indeed; raise if its place is lost."""
        node = self._seen.node_of(key)
        await session.probes.join(node, lambda: self._look(session, node))

    async def _look(self, session: _Session, node: str | None) -> None:
        if node is not None:
            for key in documents(node):
                try:
                    async with self._errors(session, key):
                        await session.bucket.size(self._place.name(key))
                except _AbsentError:
                    continue
                return
        try:
            async with self._errors(session, "", writes=True):
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

    async def _session(self) -> _Session:
        self._is_open = True
        try:
            return await self._clients.get()
        except Exception as error:  # noqa: BLE001  # the table knows which
            remote_errors.throw(self._translated(error, remote_errors.failure(error, self._place.back_end), ""))

    @asynccontextmanager
    async def _errors(self, session: _Session, key: str, *, writes: bool = False) -> AsyncIterator[None]:
        """Make the client's errors ours; where a key is read, its absence is `_AbsentError`."""
        try:
            yield
        except ZarrStreamError:
            raise
        except Exception as error:
            back_end = self._place.back_end
            what = remote_failures.CLOSED if session.closed else remote_errors.failure(error, back_end)
            gone = isinstance(error, FileNotFoundError)
            if not writes and (gone or (self._missing_on_403 and what is remote_failures.DENIED)):
                raise _AbsentError from error
            remote_errors.throw(self._translated(error, what, key))

    def _translated(self, error: Exception, what: remote_failures.Failure, key: str) -> ZarrStreamError:
        return remote_errors.translated(error, what, place=self.place, key=key, secrets=self._place.secrets())


class _Session:
    """One loop's client, and the probes that go through it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.probes = Probes()
        self.closed = False

    @property
    def bucket(self) -> Bucket:
        if self.closed:
            raise ClosedError
        return self._bucket

    async def close(self) -> None:
        self.closed = True  # before: what is on its way fails by it, and is not to be tried again
        await self._bucket.close()


class _AbsentError(Exception):
    """The server says that a key is not there; whether that is to be believed is another question."""


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
