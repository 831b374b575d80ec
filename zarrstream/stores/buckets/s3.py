"""S3 through s3fs: its sessions, credentials and options; the requests are S3's own, each made once."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.exceptions import DataNotFoundError, UnknownServiceError
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from zarrstream.concurrency.one_version import saw_version
from zarrstream.stores.buckets.answers import NoContainerError, OddAnswerError, Unredirected, extent
from zarrstream.stores.buckets.bucket import header
from zarrstream.stores.buckets.connection import Connection
from zarrstream.stores.buckets.listing import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_REDIRECTS = range(300, 400)
_CONNECTIONS = 128  # botocore's ten are one tenth of what a stream may ask for at once
# Which files botocore has read about S3: the same for every session that looks for them in the same folders.
_readers: dict[tuple[str, ...], Any] = {}
_DESCRIPTIONS = ("service-2", "endpoint-rule-set-1")
_TABLES = ("endpoints", "partitions", "sdk-default-configuration", "_retry")


class _Session(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore ships no types
    """aiobotocore's, but that a redirect is an answer, as it is to botocore: aiohttp would follow it.

    Amazon's names the bucket's region. Of any other botocore would ask where the bucket is, again and again.
    """

    async def send(self, request: Any) -> Any:
        """Make a request."""
        answer = await super().send(request)
        if answer.status_code in _REDIRECTS and "x-amz-bucket-region" not in answer.headers:
            raise OddAnswerError(f"HTTP {answer.status_code}: a redirect that names no region")
        return answer

    async def _get_session(self, proxy_url: str | None) -> Unredirected:
        return Unredirected(await super()._get_session(proxy_url))


class S3Bucket:
    """A bucket of S3, or of what speaks its language.

    Parameters
    ----------
    name : str
        The bucket.
    options : dict
        s3fs's.
    """

    deletes_at_once = 1000  # DeleteObjects

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._bucket = name
        config = dict(options.get("config_kwargs") or {})
        config.setdefault("max_pool_connections", _CONNECTIONS)
        # Whoever calls us tries again: attempts would multiply.
        config["retries"] = {"total_max_attempts": 1, "mode": "standard"}
        if "http_session_cls" in inspect.signature(AioConfig).parameters:  # from aiobotocore 2.21 on
            config.setdefault("http_session_cls", _Session)
        if options.get("endpoint_url"):
            config.setdefault("s3", {"addressing_style": "path"})
        own = {**options, "config_kwargs": config, "asynchronous": True, "skip_instance_cache": True}
        self._system = S3FileSystem(**own)
        self._connection = Connection(self._connect)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Return an object's bytes, or a range of them."""
        answer = await self._call("get_object", Key=name, **header(start, stop))
        async with answer["Body"] as body:
            saw_version(answer.get("ETag"))
            return extent(
                await body.read(),
                start,
                stop,
                status=_known(answer)["HTTPStatusCode"],
                content_range=answer.get("ContentRange"),
                promised=answer.get("ContentLength"),
            )

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store an object."""
        only_new = {"IfNoneMatch": "*"} if create else {}
        try:
            answer = await self._call("put_object", Key=name, Body=bytes(value), **only_new)
        except OSError as error:
            if not create or _code(error) != "PreconditionFailed":
                raise
            raise FileExistsError(name) from error  # s3fs says so for Amazon's answer, and not for MinIO's
        if not answer.get("ETag"):
            raise OddAnswerError("a write's answer without an ETag")

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects."""
        if len(names) == 1:
            await self._remove(names[0])
            return
        objects = [{"Key": name} for name in names]
        answer = await self._call("delete_objects", Delete={"Objects": objects})
        for failure in answer.get("Errors", ()):  # the answer's status is 200 all the same
            raise translate_boto_error(_RefusedError({"Error": failure}))
        told = {found.get("Key") for found in answer.get("Deleted", ())}
        if len(told) != len(set(names)):
            raise OddAnswerError(f"a delete's answer that names {len(told):,} of {len(set(names)):,} objects")

    async def _remove(self, name: str) -> None:
        answer = await self._call("delete_object", Key=name)
        if _request_id(answer):
            return
        # Amazon's answer has no body, and some that speak its language number no requests.
        with suppress(FileNotFoundError):
            await self.size(name)
            raise OddAnswerError("a delete's answer, and the object is there")

    async def size(self, name: str) -> int:
        """Return how many bytes an object has."""
        try:
            answer = await self._call("head_object", Key=name)
        except (OddAnswerError, PermissionError) as error:
            refused: Exception = error
        else:
            _known(answer)
            return int(answer["ContentLength"])
        await self.get(name, 0, 1)  # a refusal of HEAD has no body that could say whose it is
        raise refused

    def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield names and sizes, page by page."""

        async def fetch(mark: str) -> tuple[list[tuple[str, int]], str | None]:
            page, following = await self._listed(mark, Prefix=prefix)
            return [(found["Key"], found["Size"]) for found in page.get("Contents", ())], following

        return Pages(fetch)

    def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the names of one level, page by page."""

        async def fetch(mark: str) -> tuple[list[str], str | None]:
            page, following = await self._listed(mark, Prefix=prefix, Delimiter="/")
            folders = [found["Prefix"] for found in page.get("CommonPrefixes", ())]
            names = [found["Key"] for found in page.get("Contents", ())]
            return [name.removeprefix(prefix).rstrip("/") for name in (*names, *folders)], following

        return Pages(fetch)

    async def answer(self, prefix: str) -> None:
        """Return if the bucket is there."""
        await self._page(Prefix=prefix, MaxKeys=1)

    async def close(self) -> None:
        """Close the client's connections."""
        if await self._connection.end():
            await self._system._s3.close()  # noqa: SLF001  # s3fs closes it only where it is synchronous

    async def _connect(self) -> None:
        # botocore reads for a tenth of a second, for a whole one where the machine is busy: on the event loop, no
        # deadline could interrupt that.
        if self._system.session is None:
            self._system.session = await asyncio.to_thread(_session, self._system.kwargs)
        await self._system.set_session()

    async def _listed(self, mark: str, **options: Any) -> tuple[dict[str, Any], str | None]:
        try:
            page = await self._page(**options, **({"ContinuationToken": mark} if mark else {}))
        except OSError as error:
            if _code(error) == "XMinioInvalidObjectName":  # MinIO has no name that begins so
                return {}, None
            raise
        return page, page["NextContinuationToken"] if page.get("IsTruncated") else None

    async def _page(self, **options: Any) -> dict[str, Any]:
        page: dict[str, Any] = await self._call("list_objects_v2", **options)
        if "KeyCount" not in page and "IsTruncated" not in page:
            raise OddAnswerError("an answer that is no listing")
        if page.get("IsTruncated") and not page.get("NextContinuationToken"):
            raise OddAnswerError("a page of a listing that does not say where the next one begins")
        return page

    async def _call(self, method: str, **parameters: Any) -> Any:
        """Make a request, once: s3fs's own way tries five times, and sleeps after the last as well."""
        if not self._connection.made:
            await self._connection.make()
        client = await self._system.get_s3(self._bucket)
        call = getattr(client, method)
        named = self._system._get_s3_method_kwargs(call, Bucket=self._bucket, **parameters)  # noqa: SLF001  # the options of its users
        try:
            return await call(**named)
        except Exception as error:  # noqa: BLE001  # s3fs knows which
            raised = translate_boto_error(error)
            if isinstance(raised, FileNotFoundError) and (code := _code(raised)) != "NoSuchKey":
                raised = (
                    NoContainerError(code) if code == "NoSuchBucket" else OddAnswerError("a 404 that names nothing")
                )
            raise raised from (None if raised is error else error)


def _session(options: dict[str, Any]) -> AioSession:
    """Return a session that has read what is known about S3, as others of this process may have before."""
    session = AioSession(**options)
    own = session.get_component("data_loader")
    reader = _readers.setdefault(tuple(own.search_paths), own)
    session.register_component("data_loader", reader)
    with suppress(DataNotFoundError, UnknownServiceError):  # another botocore's files: it reads them itself
        for name in _DESCRIPTIONS:
            reader.load_service_model("s3", name)
        for name in _TABLES:
            reader.load_data(name)
    return session


def _known(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what botocore tells of an answer, if it is an object's."""
    if not answer.get("ETag") and not _request_id(answer):
        raise OddAnswerError("an answer without an ETag and the service's request id")
    metadata: dict[str, Any] = answer["ResponseMetadata"]
    return metadata


def _request_id(answer: dict[str, Any]) -> str | None:
    found: str | None = answer["ResponseMetadata"].get("RequestId")
    return found


def _code(error: OSError) -> str | None:
    response = getattr(error.__cause__, "response", None) or {}
    found: str | None = response.get("Error", {}).get("Code")
    return found


class _RefusedError(Exception):
    """One object's failure in an answer for many."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__(response["Error"].get("Message", ""))
        self.response = response
