"""Google Cloud Storage through gcsfs: its sessions and credentials; requests are those of the JSON API, once each."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

# Without it gcsfs asks, at each call, a service of the real cloud what kind of bucket this is.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
from gcsfs.core import GCSFileSystem

from zarrstream.concurrency.one_version import saw_version
from zarrstream.stores.buckets.answers import (
    NO_CONTENT,
    NOT_FOUND,
    OK,
    PARTIAL,
    NoContainerError,
    OddAnswerError,
    extent,
)
from zarrstream.stores.buckets.bucket import header
from zarrstream.stores.buckets.clients import let_go
from zarrstream.stores.buckets.connection import Connection
from zarrstream.stores.buckets.listing import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_LEFT = timedelta(seconds=300)  # of a token's time: with less gcsfs asks for another one


_OBJECT = "storage#object"
_REFUSED = 400  # HTTP: from here on
_PRECONDITION = 412


class _RefusedError(Exception):
    """A request that was refused, and the body that says why."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP {status}: {content[:1000].decode(errors='replace')}")
        self.status, self.content = status, content
        # An object's content is refused in a line of text.
        self.error_code = "forbidden" if b"does not have storage." in content else _reason(content)


class GCSBucket:
    """A bucket of Google Cloud Storage.

    Parameters
    ----------
    name : str
        The bucket.
    options : dict
        gcsfs's.
    """

    deletes_at_once = 1

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._bucket = name
        self._options = {**options, "asynchronous": True, "skip_instance_cache": True}
        self._renewing = asyncio.Lock()
        self._connection = Connection(self._connect)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Return an object's bytes, or a range of them."""
        try:
            return await self._media(name, start, stop)
        except OddAnswerError as error:
            odd = error
        await self.size(name)  # which says whether it is there in JSON; here a 404 is a line of text
        raise odd

    async def _media(self, name: str, start: int, stop: int | None) -> Any:
        answer, content = await self._call("GET", self._object(name), alt="media", headers=header(start, stop))
        if "X-Goog-Generation" not in answer.headers:
            raise OddAnswerError("an object without its generation")
        saw_version(answer.headers["X-Goog-Generation"])
        promised = answer.headers.get("Content-Length")
        if promised is not None and "Content-Encoding" in answer.headers:
            promised = len(content)  # aiohttp has counted what came, and unpacked it
        return extent(
            content,
            start,
            stop,
            status=answer.status,
            content_range=answer.headers.get("Content-Range"),
            promised=None if promised is None else int(promised),
        )

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store an object."""
        path = f"/upload/storage/v1/b/{quote(self._bucket)}/o"
        only_new = {"ifGenerationMatch": "0"} if create else {}
        headers = {"Content-Type": "application/octet-stream"}
        data = bytes(value)
        try:
            stored = await self._json(
                path, method="POST", uploadType="media", name=name, headers=headers, data=data, **only_new
            )
        except _RefusedError as error:
            if not create or error.status != _PRECONDITION or not _said(error.content):
                raise
            raise FileExistsError(name) from error
        if (stored.get("kind"), stored.get("name"), stored.get("size")) != (_OBJECT, name, str(len(data))):
            raise OddAnswerError("a write's answer that is not the object's resource")

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects."""
        for name in names:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        try:
            answer, _ = await self._call("DELETE", self._object(name))
        except FileNotFoundError:
            await self.answer("")
            return
        if "X-GUploader-UploadID" in answer.headers:
            return
        with suppress(FileNotFoundError):  # an emulator's: an empty answer says too little
            await self.size(name)
            raise OddAnswerError("a delete's answer, and the object is there")

    async def size(self, name: str) -> int:
        """Return how many bytes an object has."""
        found = await self._json(self._object(name))
        if (found.get("kind"), found.get("name")) != (_OBJECT, name):
            raise OddAnswerError("an answer that is not the object's resource")
        return int(found["size"])

    def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield names and sizes, page by page."""

        async def fetch(mark: str) -> tuple[list[tuple[str, int]], str | None]:
            page, following = await self._listed(mark, prefix=prefix)
            return [(found["name"], int(found["size"])) for found in page.get("items", ())], following

        return Pages(fetch)

    def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the names of one level, page by page."""

        async def fetch(mark: str) -> tuple[list[str], str | None]:
            page, following = await self._listed(mark, prefix=prefix, delimiter="/")
            names = [found["name"] for found in page.get("items", ())]
            return [name.removeprefix(prefix).rstrip("/") for name in (*names, *page.get("prefixes", ()))], following

        return Pages(fetch)

    async def answer(self, prefix: str) -> None:
        """Return if the bucket is there."""
        await self._page(prefix=prefix, maxResults=1)

    async def close(self) -> None:
        """Close the client's connections."""
        if await self._connection.end():
            await self._system._session.close()  # noqa: SLF001  # it has no public way

    @property
    def _root(self) -> str:
        return f"/storage/v1/b/{quote(self._bucket)}/o"

    def _object(self, name: str) -> str:
        return f"{self._root}/{quote(name, safe='')}"

    async def _listed(self, mark: str, **options: Any) -> tuple[dict[str, Any], str | None]:
        page = await self._page(**options, **({"pageToken": mark} if mark else {}))
        return page, page.get("nextPageToken") or None

    async def _page(self, **options: Any) -> dict[str, Any]:
        page = await self._json(self._root, **options)
        if page.get("kind") != "storage#objects":
            raise OddAnswerError("an answer that is no listing")
        return page

    async def _json(self, path: str, *, method: str = "GET", **parameters: Any) -> dict[str, Any]:
        _, content = await self._call(method, path, **parameters)
        found = _parsed(content)
        if found is None:
            raise OddAnswerError("an answer that is no object of JSON")
        return found

    async def _connect(self) -> None:
        # gcsfs looks for credentials and asks for tokens as plain code does, which takes seconds where a server of
        # theirs does not answer: on the event loop, no deadline could interrupt that.
        self._system = await asyncio.to_thread(partial(GCSFileSystem, **self._options))
        await self._system._set_session()  # noqa: SLF001  # its public way blocks
        let_go(self._system)

    async def _call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, data: bytes | None = None, **query: Any
    ) -> tuple[Any, bytes]:
        """Make a request, once, and go where it leads and nowhere else; return the answer and its body."""
        if not self._connection.made:
            await self._connection.make()
        if not self._has_token():
            async with self._renewing:
                if not self._has_token():
                    await asyncio.to_thread(self._system.credentials.maybe_refresh)
        system = self._system  # whose own way tries six times, follows redirects, and drops what a 404 says
        async with system.session.request(
            method,
            f"{system._location}{path}",  # noqa: SLF001  # its endpoint
            params=system._get_params(query),  # noqa: SLF001  # the options of its users
            headers=system._get_headers(headers),  # noqa: SLF001  # and their token
            data=data,
            timeout=system.requests_timeout,
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
        if answer.status == NOT_FOUND:
            raise _missing(content)
        if answer.status >= _REFUSED:
            raise _RefusedError(answer.status, content)
        if answer.status not in {OK, NO_CONTENT, PARTIAL}:
            raise OddAnswerError(f"HTTP {answer.status}")
        return answer, content

    def _has_token(self) -> bool:
        """Return whether gcsfs has no token to ask for before it makes a request."""
        found = self._system.credentials.credentials
        if found is None or not found.expiry:
            return found is None or bool(found.valid)
        return bool(found.valid) and found.expiry.replace(tzinfo=UTC) - datetime.now(UTC) > _LEFT


def _missing(content: bytes) -> Exception:
    """Return what a 404 is: an object's absence, the bucket's, or nothing that the service has said."""
    if b"bucket does not exist" in content:
        return NoContainerError()
    if content.startswith(b"No such object") or _said(content):
        return FileNotFoundError("No such object")
    return OddAnswerError("a 404 that names nothing")


def _said(content: bytes) -> bool:
    """Return whether an error is told as the service tells it."""
    return isinstance((_parsed(content) or {}).get("error"), dict)


def _reason(content: bytes) -> str | None:
    """Return why a request was refused, in the service's own word."""
    error = (_parsed(content) or {}).get("error")
    reasons = error.get("errors") if isinstance(error, dict) else None
    first = reasons[0] if isinstance(reasons, list) and reasons else None
    return first.get("reason") if isinstance(first, dict) else None


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
