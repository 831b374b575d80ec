"""One key <-> its bytes: straight from files, through a synchronous store, or on an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, WrapperStore

from zarrstream.streaming.codecs.chain import overridden_apart
from zarrstream.streaming.transport.files import FileTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zarr.abc.store import ByteRequest, Store

    from zarrstream.streaming.codecs.array import ArrayCodec

_TWINS = (("get", "get_sync"), ("set", "set_sync"), ("delete", "delete_sync"))


class SyncPort(Protocol):
    """What reads and writes in the calling thread."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> Any | None:
        """Read a value or a half-open byte range of it; None where the key is absent."""

    def put(self, key: str, pieces: Iterable[Any]) -> None:
        """Store a value that is given in pieces."""

    def delete(self, key: str) -> None:
        """Remove a key, whether or not it is there."""


class SyncTransport:
    """A store whose methods run in the calling thread.

    Parameters
    ----------
    store : zarr.abc.store.Store
        A store with ``get_sync``, ``set_sync`` and ``delete_sync``.
    """

    def __init__(self, store: Store) -> None:
        self._store: Any = store
        self._prototype = default_buffer_prototype()
        self.put_many: Callable[[Sequence[tuple[str, list[Any]]]], None] | None = (
            self._put_many if hasattr(store, "set_many_sync") else None
        )

        self.get_many: Callable[[Sequence[str]], list[Any]] | None = (
            self._get_many if getattr(store, "reads_together", False) else None
        )

    def get(self, key: str, start: int = 0, stop: int | None = None) -> Any | None:
        """Read a value or a half-open byte range of it; None where the key is absent."""
        value = self._store.get_sync(key, prototype=self._prototype, byte_range=_request(start, stop))
        return None if value is None else value.as_buffer_like()

    def put(self, key: str, pieces: Iterable[Any]) -> None:
        """Store a value that is given in pieces."""
        self._store.set_sync(key, self._buffer(pieces))

    def delete(self, key: str) -> None:
        """Remove a key, whether or not it is there."""
        self._store.delete_sync(key)

    def _get_many(self, keys: Sequence[str]) -> list[Any]:
        values = self._store.get_many_sync(keys, prototype=self._prototype)
        return [None if value is None else value.as_buffer_like() for value in values]

    def _put_many(self, items: Sequence[tuple[str, list[Any]]]) -> None:
        self._store.set_many_sync([(key, self._buffer(pieces)) for key, pieces in items])

    def _buffer(self, pieces: Iterable[Any]) -> Any:
        return self._prototype.buffer.from_bytes(_joined(pieces))


class LoopTransport:
    """A store whose methods are awaited, at most so many at once.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store.
    requests : int
        How many requests may be under way.
    """

    def __init__(self, store: Store, requests: int) -> None:
        self._store = store
        self._prototype = default_buffer_prototype()
        self.gate = asyncio.Semaphore(requests)

    async def get(self, key: str, start: int = 0, stop: int | None = None, *, began: Callable[[], None]) -> Any | None:
        """Read a value or a half-open byte range of it; None where the key is absent.

        Parameters
        ----------
        key : str
            The store's key.
        start, stop : int
            A half-open byte range; a negative start counts from the end.
        began : callable
            Called when the request leaves: until then it waited for room.
        """
        async with self.gate:
            began()
            value = await self._store.get(key, self._prototype, _request(start, stop))
        return None if value is None else value.as_buffer_like()

    async def put(self, key: str, pieces: Iterable[Any], *, began: Callable[[], None]) -> None:
        """Store a value that is given in pieces."""
        async with self.gate:
            began()
            await self._store.set(key, self._prototype.buffer.from_bytes(_joined(pieces)))

    async def delete(self, key: str, *, began: Callable[[], None]) -> None:
        """Remove a key, whether or not it is there."""
        async with self.gate:
            began()
            await self._store.delete(key)


def sync_port(codec: ArrayCodec) -> FileTransport | SyncTransport | None:
    """Choose how an array's objects are reached from a thread; None where they have to be awaited."""
    store = codec.array.store
    if codec.opaque:
        return None
    if type(store) is LocalStore and not {"get", "set", "delete", "get_sync"} & vars(store).keys():
        return FileTransport(store.root, codec.array.store_path.path, codec.document)
    return SyncTransport(store) if runs_sync(store) else None


def runs_sync(store: Any) -> bool:
    """Whether a store's synchronous methods do what its awaited ones do.

    A wrapper or subclass that changes ``get`` alone inherits a ``get_sync`` that knows nothing of the change.
    """
    if isinstance(store, WrapperStore) and not runs_sync(store._store):  # noqa: SLF001  # zarr's wrappers delegate to it
        return False
    return getattr(store, "_supports_sync_io", True) and all(
        hasattr(store, synchronous) and not overridden_apart(store, awaited, synchronous)
        for awaited, synchronous in _TWINS
    )


def looks_again(store: Any) -> bool:
    """Return whether a shard's index is read once more after its parts, where the store told no version of them."""
    while isinstance(store, WrapperStore):
        store = store._store  # noqa: SLF001  # zarr's wrappers delegate to it
    return bool(getattr(store, "looks_again", False))


def _request(start: int, stop: int | None) -> ByteRequest | None:
    if stop is not None:
        return RangeByteRequest(start, stop)
    if start < 0:
        return SuffixByteRequest(-start)
    return OffsetByteRequest(start) if start else None


def _joined(pieces: Iterable[Any]) -> Any:
    pieces = list(pieces)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
