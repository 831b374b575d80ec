"""Azure Blob Storage through adlfs: its credentials and options; requests are those of Azure's client, once each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity.aio import ManagedIdentityCredential

from zarrstream.concurrency.one_version import saw_version
from zarrstream.stores.buckets.answers import OddAnswerError, extent
from zarrstream.stores.buckets.bucket import header
from zarrstream.stores.buckets.clients import let_go
from zarrstream.stores.buckets.listing import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

_REFUSED = 400  # HTTP: from here on
_REQUEST_ID = "x-ms-request-id"  # Azure's answers have one, whatever they say


def _check(response: Any) -> None:
    """Raise where an answer is not the service's; what is refused has an error of its own."""
    answer = response.http_response
    if answer.status_code < _REFUSED and _REQUEST_ID not in answer.headers:
        raise OddAnswerError(f"HTTP {answer.status_code} without {_REQUEST_ID}")


# Whoever calls us tries again: attempts would multiply. A write that is sent on may end as the read of another page.
_ONCE = {"retry_total": 0, "permit_redirects": False, "raw_response_hook": _check}


class AzureBucket:
    """A container of Azure Blob Storage.

    Parameters
    ----------
    name : str
        The container.
    options : dict
        adlfs's.
    """

    deletes_at_once = 1

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
        answer, chunks = await _found(self._download(name, header(start, stop).get("Range")), name)
        if _REQUEST_ID not in answer.headers or "ETag" not in answer.headers:
            answer.internal_response.close()
            raise OddAnswerError(f"HTTP {answer.status_code} without {_REQUEST_ID} and ETag")
        promised = answer.headers.get("Content-Length")
        saw_version(answer.headers["ETag"])
        return extent(
            b"".join([chunk async for chunk in chunks]),
            start,
            stop,
            status=answer.status_code,
            content_range=answer.headers.get("Content-Range"),
            promised=None if promised is None else int(promised),
        )

    async def _download(self, name: str, wanted: str | None) -> tuple[Any, AsyncIterator[bytes]]:
        # `download_blob` asks three times for a body that is cut short, and waits for a second before each: no option
        # of it changes that. This is what it calls.
        generated = self._client.get_blob_client(name)._client.blob  # noqa: SLF001
        options = {**_ONCE, "raw_response_hook": None}
        try:
            found: tuple[Any, AsyncIterator[bytes]] = await generated.download(
                range=wanted, decompress=False, cls=lambda response, body, _: (response.http_response, body), **options
            )
        except HttpResponseError as error:
            told: Any = error  # as the public way tells it
            told.error_code = _code(error)
            raise
        return found

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store a blob."""
        try:
            client = self._client.get_blob_client(name)
            stored = await client.upload_blob(bytes(value), overwrite=not create, **_ONCE)
        except ResourceExistsError as error:
            if not create or getattr(error, "error_code", None) != "BlobAlreadyExists":
                raise
            raise FileExistsError(name) from error
        if not stored.get("etag"):
            raise OddAnswerError("a write's answer without an ETag")

    async def delete(self, names: Sequence[str]) -> None:
        """Remove blobs."""
        for name in names:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        try:
            await _found(self._client.delete_blob(name, **_ONCE), name)
        except FileNotFoundError:
            await self.answer("")

    async def size(self, name: str) -> int:
        """Return how many bytes a blob has."""
        client = self._client.get_blob_client(name)
        return int((await _found(client.get_blob_properties(**_ONCE), name)).size)

    def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield names and sizes, page by page."""

        async def fetch(mark: str) -> tuple[list[tuple[str, int]], str | None]:
            blobs, following = await _page(self._client.list_blobs(name_starts_with=prefix, **_ONCE), mark)
            return [(blob.name, blob.size) for blob in blobs], following

        return Pages(fetch)

    def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the names of one level, page by page."""

        async def fetch(mark: str) -> tuple[list[str], str | None]:
            listing = self._client.walk_blobs(name_starts_with=prefix, delimiter="/", **_ONCE)
            blobs, following = await _page(listing, mark)
            return [blob.name.removeprefix(prefix).rstrip("/") for blob in blobs], following

        return Pages(fetch)

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


async def _page(listing: Any, mark: str) -> tuple[list[Any], str | None]:
    """Return one page of a listing, and the mark of the next."""
    pages = listing.by_page(continuation_token=mark or None)
    async for page in pages:
        return [blob async for blob in page], pages.continuation_token or None
    return [], None


async def _found(request: Awaitable[Any], name: str) -> Any:
    try:
        return await request
    except ResourceNotFoundError as error:
        if _code(error) != "BlobNotFound":
            raise
        raise FileNotFoundError(name) from error


def _code(error: HttpResponseError) -> str | None:
    response: Any = error.response
    return None if response is None else response.headers.get("x-ms-error-code")
