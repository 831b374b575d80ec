"""Azure Blob Storage through adlfs: its credentials and options; requests are those of Azure's client, once each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.identity.aio import ManagedIdentityCredential

from zarrstream.stores.bucket import whole
from zarrstream.stores.clients import let_go

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

# Whoever calls us tries again: attempts would multiply.
_ONCE = {"retry_total": 0}


class AzureBucket:
    """A container of Azure Blob Storage.

    Parameters
    ----------
    name : str
        The container.
    options : dict
        adlfs's.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        own = {**options, "asynchronous": True, "skip_instance_cache": True}
        if own.pop("use_managed_identity", False):
            own["credential"] = ManagedIdentityCredential()
        self._system = AzureBlobFileSystem(**own)
        let_go(self._system)
        self._client = self._system.service_client.get_container_client(name)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Return a blob's bytes, or a range of them."""
        if start < 0:  # Azure has no ranges from the end
            start = max(0, await self.size(name) + start)
        length = None if stop is None else stop - start
        ranged = {"offset": start, "length": length} if start or length is not None else {}
        stream = await _found(self._client.download_blob(name, **ranged, **_ONCE), name)
        return whole(await stream.readall(), stream.size)

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store a blob."""
        try:
            await self._client.upload_blob(name, bytes(value), overwrite=not create, **_ONCE)
        except ResourceExistsError as error:
            if not create or getattr(error, "error_code", None) != "BlobAlreadyExists":
                raise
            raise FileExistsError(name) from error

    async def delete(self, names: Sequence[str]) -> None:
        """Remove blobs."""
        await asyncio.gather(*map(self._remove, names))

    async def _remove(self, name: str) -> None:
        try:
            await _found(self._client.delete_blob(name, **_ONCE), name)
        except FileNotFoundError:
            await self.answer("")

    async def size(self, name: str) -> int:
        """Return how many bytes a blob has."""
        client = self._client.get_blob_client(name)
        return int((await _found(client.get_blob_properties(**_ONCE), name)).size)

    async def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield names and sizes, page by page."""
        async for page in self._client.list_blobs(name_starts_with=prefix, **_ONCE).by_page():
            yield [(blob.name, blob.size) async for blob in page]

    async def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the names of one level, page by page."""
        async for page in self._client.walk_blobs(name_starts_with=prefix, delimiter="/", **_ONCE).by_page():
            yield [blob.name.removeprefix(prefix).rstrip("/") async for blob in page]

    async def answer(self, prefix: str) -> None:
        """Return if the container is there."""
        pages = self._client.list_blobs(name_starts_with=prefix, results_per_page=1, **_ONCE).by_page()
        async for _ in pages:
            return

    async def close(self) -> None:
        """Close the client's connections."""
        await self._system.service_client.close()
        if self._system.credential is not None and hasattr(self._system.credential, "close"):
            await self._system.credential.close()


async def _found(request: Awaitable[Any], name: str) -> Any:
    try:
        return await request
    except ResourceNotFoundError as error:
        raise FileNotFoundError(name) from error
