"""What our wrappers of stores share: each request that zarr makes of a batch is a call of its own."""

# the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, TypeAlias

from zarr.abc.store import Store
from zarr.storage import StorePath, WrapperStore

from zarrstream.errors import StoreOptionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

StoreLike: TypeAlias = "Store | StorePath | MutableMapping[str, bytes] | str | os.PathLike[str]"


def store_of(given: StoreLike) -> Store:
    """Return the store that a user means.

    Parameters
    ----------
    given : zarr.abc.store.Store, StorePath, mapping, str or os.PathLike
        A store; zarr's path in one, where it is the path of the whole; a mapping of bytes; or a URL, a path or a
        ``UPath`` that `zarrstream.open_store` takes, without the retries and limits that it has by default.

    Raises
    ------
    StoreOptionError
        It is none of these, or a path within a store.
    """
    if isinstance(given, Store):
        return given
    if isinstance(given, StorePath):
        if given.path:
            raise StoreOptionError(
                f"{str(given)!r} is a path within a store, and a whole store is needed: pass its .store, and "
                f"path={given.path!r} to zarr.open of the result"
            )
        return given.store
    if isinstance(given, MutableMapping):
        from zarrstream.stores.mapping import MappingStore

        return MappingStore(given)
    if isinstance(given, (str, os.PathLike)) or hasattr(given, "storage_options"):
        from zarrstream.stores.opening import open_store

        return open_store(given, retry=None, max_concurrency=None)
    raise StoreOptionError(f"a store is a zarr Store, a mapping of bytes, a URL or a path, and not {given!r}")


class Wrapper(WrapperStore[Store]):
    """A store around another that has methods of the calling thread where the other has them.

    Parameters
    ----------
    store : zarr.abc.store.Store, StorePath, mapping, str or os.PathLike
        What is wrapped; see `store_of`.
    """

    def __init__(self, store: StoreLike) -> None:
        super().__init__(store_of(store))

    if hasattr(Store, "get_ranges"):  # zarr 3.2 and later: merged there, and each request that results is a call here
        get_ranges = Store.get_ranges  # type: ignore[assignment]  # its defaults are numbers, not None

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    @property
    def _supports_sync_io(self) -> bool:
        return hasattr(self._store, "get_sync") and bool(getattr(self._store, "_supports_sync_io", True))
