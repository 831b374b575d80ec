"""Listings of a bucket, page by page: one that failed is asked for again, and not the whole listing."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pages(AsyncIterator[T], Generic[T]):
    """The pages of a listing, each found by the mark that the one before has given.

    Parameters
    ----------
    fetch : callable
        Takes a mark, ``""`` for the first page, and returns that page and the next one's mark, None at the end.

    Notes
    -----
    After an error, the next `anext` asks for the same page again.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[tuple[T, str | None]]]) -> None:
        self._fetch = fetch
        self._mark: str | None = ""

    async def __anext__(self) -> T:
        if self._mark is None:
            raise StopAsyncIteration
        page, self._mark = await self._fetch(self._mark)
        return page


class Listing(AsyncIterator[T], Generic[T]):
    """The entries of all pages.

    Parameters
    ----------
    more : callable
        Returns the next page; None at the end.

    Attributes
    ----------
    goes_on : bool
        Whether `anext` goes on after an error where the listing was.
    """

    goes_on = True

    def __init__(self, more: Callable[[], Awaitable[list[T] | None]]) -> None:
        self._more = more
        self._here: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self._here:
            page = await self._more()
            if page is None:
                raise StopAsyncIteration
            self._here.extend(page)
        return self._here.popleft()


def is_marker(key: str) -> bool:
    """Return whether a console has left this where somebody made a folder: an object whose name ends in a slash."""
    return not key or key.endswith("/")
