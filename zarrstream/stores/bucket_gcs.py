"""Google Cloud Storage through gcsfs: its sessions and credentials; requests are those of the JSON API, once each."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

# Without it gcsfs asks, at each call, a service of the real cloud what kind of bucket this is.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
from gcsfs.core import GCSFileSystem

from zarrstream.stores.bucket import CutShortError, header, whole
from zarrstream.stores.clients import let_go
from zarrstream.stores.connection import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_LEFT = timedelta(seconds=300)  # of a token's time: with less gcsfs asks for another one


class _Once(GCSFileSystem):  # type: ignore[misc]  # gcsfs ships no types
    """gcsfs, but that a request is made once: whoever calls us tries again, and attempts would multiply."""

    _request = GCSFileSystem._request.__wrapped__  # noqa: SLF001  # the only way to it


class GCSBucket:
    """A bucket of Google Cloud Storage.

    Parameters
    ----------
    name : str
        The bucket.
    options : dict
        gcsfs's.
    """

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._bucket = name
        self._options = {**options, "asynchronous": True, "skip_instance_cache": True}
        self._renewing = asyncio.Lock()
        self._connection = Connection(self._connect)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Return an object's bytes, or a range of them."""
        headers, content = await self._call("GET", f"{self._object(name)}?alt=media", headers=header(start, stop))
        promised = headers.get("Content-Length")
        encoded = "Content-Encoding" in headers
        return whole(content, None if promised is None or encoded else int(promised))

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store an object."""
        path = f"/upload/storage/v1/b/{quote(self._bucket)}/o"
        only_new = {"ifGenerationMatch": "0"} if create else {}
        headers = {"Content-Type": "application/octet-stream"}
        await self._call("POST", path, uploadType="media", name=name, headers=headers, data=bytes(value), **only_new)

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects."""
        await asyncio.gather(*map(self._remove, names))

    async def _remove(self, name: str) -> None:
        try:
            await self._call("DELETE", self._object(name))
        except FileNotFoundError:
            await self.answer("")

    async def size(self, name: str) -> int:
        """Return how many bytes an object has."""
        return int((await self._json(self._object(name)))["size"])

    async def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield names and sizes, page by page."""
        async for page in self._listing(prefix=prefix):
            yield [(found["name"], int(found["size"])) for found in page.get("items", ())]

    async def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the names of one level, page by page."""
        async for page in self._listing(prefix=prefix, delimiter="/"):
            names = [found["name"] for found in page.get("items", ())]
            yield [name.removeprefix(prefix).rstrip("/") for name in (*names, *page.get("prefixes", ()))]

    async def answer(self, prefix: str) -> None:
        """Return if the bucket is there."""
        await self._json(self._root, prefix=prefix, maxResults=1)

    async def close(self) -> None:
        """Close the client's connections."""
        if await self._connection.end():
            await self._system._session.close()  # noqa: SLF001  # it has no public way

    @property
    def _root(self) -> str:
        return f"/storage/v1/b/{quote(self._bucket)}/o"

    def _object(self, name: str) -> str:
        return f"{self._root}/{quote(name, safe='')}"

    async def _listing(self, **options: Any) -> AsyncIterator[dict[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            page = await self._json(self._root, **options, **more)
            yield page
            if not page.get("nextPageToken"):
                return
            more = {"pageToken": page["nextPageToken"]}

    async def _json(self, path: str, **parameters: Any) -> dict[str, Any]:
        _, content = await self._call("GET", path, **parameters)
        found = json.loads(content)
        if not isinstance(found, dict):
            raise CutShortError("an answer that is no object of JSON")
        return found

    async def _connect(self) -> None:
        # gcsfs looks for credentials and asks for tokens as plain code does, which takes seconds where a server of
        # theirs does not answer: on the event loop, no deadline could interrupt that.
        self._system = await asyncio.to_thread(partial(_Once, **self._options))
        await self._system._set_session()  # noqa: SLF001  # its public way blocks
        let_go(self._system)

    async def _call(self, method: str, path: str, **parameters: Any) -> Any:
        if not self._connection.made:
            await self._connection.make()
        if not self._has_token():
            async with self._renewing:
                if not self._has_token():
                    await asyncio.to_thread(self._system.credentials.maybe_refresh)
        url = f"{self._system._location}{path}"  # noqa: SLF001  # its endpoint
        return await self._system._call(method, url, **parameters)  # noqa: SLF001  # its public one blocks

    def _has_token(self) -> bool:
        """Return whether gcsfs has no token to ask for before it makes a request."""
        found = self._system.credentials.credentials
        if found is None or not found.expiry:
            return found is None or bool(found.valid)
        return bool(found.valid) and found.expiry.replace(tzinfo=UTC) - datetime.now(UTC) > _LEFT
