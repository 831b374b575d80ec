"""What our wrappers of stores share: each request that zarr makes of a batch is a call of its own."""

# the methods without a docstring inherit that of zarr.abc.store.Store

from __future__ import annotations

from typing import TYPE_CHECKING

from zarr.abc.store import Store
from zarr.storage import WrapperStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class Wrapper(WrapperStore[Store]):
    """A store around another that has methods of the calling thread where the other has them.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What is wrapped.
    """

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
