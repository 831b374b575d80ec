"""S3 through obstore, whose client is Rust's object_store: fewer options than s3fs, and faster."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError
from obstore.store import S3Store

from zarrstream.concurrency.one_version import saw_version
from zarrstream.stores.buckets.answers import NoContainerError, OddAnswerError, whole
from zarrstream.stores.buckets.clients import after_clients
from zarrstream.stores.buckets.listing import Pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from obstore import GetResult
    from obstore.store import ObjectStore

# The process in which obstore has started its threads. A child that was forked afterwards has none of them, and would
# wait for ever.
_started: list[int] = []
_MD5 = re.compile(r'"?[0-9a-f]{32}(-\d+)?"?')  # as nearly all ETags of objects are, and no web server's
# Whoever calls us tries again: attempts would multiply.
_ONCE = {"max_retries": 0, "retry_timeout": timedelta(seconds=0)}
_LAST_MOMENT = 0.02  # seconds
_PAGE = 1000  # as many names as the service's own pages have


def _let_threads_end() -> None:
    """Give obstore's threads the interpreter once more before it ends: one that asks for it later aborts the process.

    They let go of what a request has used after its caller has been told, which may be the last that a program does.
    """
    if works_here() and _started:
        time.sleep(_LAST_MOMENT)


after_clients(_let_threads_end)


def works_here() -> bool:
    """Return whether obstore works in this process: not in one that was forked from one that has used it."""
    return not _started or os.getpid() in _started


class ObstoreBucket:
    """A bucket.

    Parameters
    ----------
    name : str
        The bucket, of S3.
    options : dict
        Those of `obstore.store.S3Store`.
    """

    deletes_at_once = 1000

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        _started.append(os.getpid())
        self._store: ObjectStore = S3Store(name, **{**options, "retry_config": _ONCE})

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Return an object's bytes, or a range of them."""
        ranged: Any = None
        if start or stop is not None:
            ranged = {"suffix": -start} if start < 0 else {"offset": start} if stop is None else (start, stop)
        with _absence():
            answer = await obstore.get_async(self._store, name, options=None if ranged is None else {"range": ranged})
        _known(answer)
        saw_version(answer.meta["e_tag"])
        first, last = answer.range  # which is the one that was asked for: obstore looks
        return whole(await answer.bytes_async(), last - first)

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store an object."""
        try:
            stored = await obstore.put_async(
                self._store, name, value, mode="create" if create else "overwrite", use_multipart=False
            )
        except AlreadyExistsError as error:
            if not create or "<Code>PreconditionFailed</Code>" not in str(error):
                raise
            raise FileExistsError(name) from error
        tag = stored["e_tag"] or ""
        if not _MD5.fullmatch(tag) and await self.size(name) != len(value):  # a page's, where a redirect led
            raise OddAnswerError(f"a write's answer with {tag or 'no ETag'}")

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects."""
        await obstore.delete_async(self._store, list(names))

    async def size(self, name: str) -> int:
        """Return how many bytes an object has."""
        refused: Exception | None = None
        try:
            with _absence():
                found = await obstore.head_async(self._store, name)
        except (OddAnswerError, PermissionDeniedError) as error:
            refused = error
        if refused is not None:
            await self.get(name, 0, 1)  # a refusal of HEAD has no body that could say whose it is
            raise refused
        if not found["e_tag"]:
            raise OddAnswerError("a size without an ETag")
        if found["size"] and not _MD5.fullmatch(found["e_tag"]):
            await self.get(name, 0, 1)  # where a redirect led it sees of what kind that is
        return int(found["size"])

    def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield names and sizes, page by page."""
        return _Pages(self, prefix)

    def list_from(self, folder: str, last: str | None) -> AsyncIterator[Any]:
        """Return obstore's own listing of a folder, behind a name."""
        pages: AsyncIterator[Any] = obstore.list(self._store, prefix=folder or None, offset=last, chunk_size=_PAGE)
        return pages

    def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield the names of one level."""

        async def fetch(_: str) -> tuple[list[str], None]:
            found = await obstore.list_with_delimiter_async(self._store, prefix=prefix.rstrip("/") or None)
            paths = [*(entry["path"] for entry in found["objects"]), *found["common_prefixes"]]
            if not paths:
                await self.confirm(prefix)
            return [path.removeprefix(prefix).rstrip("/") for path in paths if path.startswith(prefix)], None

        return Pages(fetch)

    async def confirm(self, prefix: str) -> None:
        """Return if it is the service that answers here: obstore takes a login page for a listing of nothing."""
        name = "/".join(filter(None, prefix.split("/")))  # obstore takes no empty parts in a name
        with suppress(FileNotFoundError):
            try:
                await self.get(f"{name}-", 0, 1)
            except PermissionDeniedError as error:  # of a user who may list, and read nothing
                if "<Code>" not in str(error):
                    raise

    async def answer(self, prefix: str) -> None:
        """Return if the bucket is there."""
        # Nothing is beneath this name; a page of a thousand names is more than the question is worth.
        async for _ in obstore.list(self._store, prefix=f"{prefix}-"):
            return

    async def close(self) -> None:
        """Let the client go: its connections end with it."""
        del self._store


class _Pages(AsyncIterator[list[tuple[str, int]]]):
    """The pages of obstore's listing: after an error it begins anew behind the last name that has come."""

    def __init__(self, bucket: ObstoreBucket, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        # What obstore takes for a prefix is a folder: the rest of the name is looked for here.
        self._folder = prefix.rpartition("/")[0]
        self._names: AsyncIterator[Any] | None = None
        self._last: str | None = None
        self._there: dict[str, bool] = {}

    async def __anext__(self) -> list[tuple[str, int]]:
        if self._names is None:
            self._names = self._bucket.list_from(self._folder, self._last)
        names, self._names = self._names, None
        page = await anext(names, None)
        if page is None:
            if self._last is None:
                await self._bucket.confirm(self._prefix)
            self._names = names
            raise StopAsyncIteration
        found = [(entry["path"], entry["size"]) for entry in page if entry["path"].startswith(self._prefix)]
        objects = [(name, size) for name, size in found if size or await self._is_there(name)]
        self._names = names
        if page:
            self._last = page[-1]["path"]
        return objects

    async def _is_there(self, name: str) -> bool:
        """Return whether an empty object has this name, and not one with a slash behind it, which obstore drops."""
        if name not in self._there:
            self._there[name] = True
            try:
                await self._bucket.size(name)
            except FileNotFoundError:
                self._there[name] = False
            except BaseException:
                del self._there[name]
                raise
        return self._there[name]


def _known(answer: GetResult) -> None:
    """Raise where an answer is none of an object store's; obstore follows where a redirect leads."""
    tag, kind = answer.meta["e_tag"], str(answer.attributes.get("Content-Type", ""))
    if not tag or (kind.partition(";")[0] in {"", "text/html"} and not _MD5.fullmatch(tag)):
        raise OddAnswerError(f"an answer of {kind or 'no kind'} with {tag or 'no ETag'}")


@contextmanager
def _absence() -> Iterator[None]:
    """Let a missing object be what the service itself has said; obstore takes any 404 for it."""
    try:
        yield
    except FileNotFoundError as error:
        said = str(error)
        if "<Code>NoSuchKey</Code>" in said:
            raise
        if "<Code>NoSuchBucket</Code>" in said:
            raise NoContainerError from error
        raise OddAnswerError("a 404 that names nothing") from error
