"""What an answer has to say before it is taken for the service's: a range, a whole object, or none of both."""

from __future__ import annotations

import re
from typing import Any, Final

OK: Final = 200
NO_CONTENT: Final = 204
PARTIAL: Final = 206
NOT_FOUND: Final = 404
_RANGE = re.compile(r"bytes (\d+)-(-?\d+)/(\d+)", re.IGNORECASE)  # of the empty object MinIO says 0--1/0


class CutShortError(Exception):
    """A body that ended before what its head had promised."""


class OddAnswerError(Exception):
    """An answer that this service does not give: a proxy's, a login page's, another program's."""


class NoContainerError(Exception):
    """The service says that the bucket is not there."""


class Unredirected:
    """A session of aiohttp's that goes nowhere else: a write that is sent on ends as the read of another page.

    Parameters
    ----------
    session : aiohttp.ClientSession
        Makes the requests.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def request(self, *arguments: Any, **options: Any) -> Any:
        """Begin a request; a redirect is its answer."""
        return self._session.request(*arguments, **{**options, "allow_redirects": False})


def whole(value: Any, promised: int | None) -> Any:
    """Return a body, if all of it has come."""
    if promised is not None and len(value) != promised:
        raise CutShortError(f"{len(value):,} of {promised:,} bytes came")
    return value


def extent(
    value: Any, start: int, stop: int | None, *, status: int, content_range: str | None, promised: int | None
) -> Any:
    """Return the bytes that were asked for out of an answer that says which ones it brings.

    A server may answer a range with the whole object (RFC 9110, 14.2), whose length has to be known then.

    Parameters
    ----------
    value : bytes
        The body.
    start, stop : int
        The half-open range that was asked for; a negative start counts from the end, 0 and None are the whole.
    status : int
        HTTP's.
    content_range : str, optional
        That header.
    promised : int, optional
        How long the head says that the body is.

    Raises
    ------
    CutShortError
        Less came than was promised.
    OddAnswerError
        The answer does not say that it is what was asked for.
    """
    whole(value, promised)
    ranged = start != 0 or stop is not None
    if status == OK and (not ranged or promised is not None):
        return value[start:stop] if ranged else value
    if status == PARTIAL and ranged and (found := _RANGE.fullmatch(content_range or "")):
        first, last, total = map(int, found.groups())
        asked = range(total)[start:stop]
        if (first, last) == (asked.start, asked.start + len(asked) - 1) and len(value) == len(asked):
            return value
    raise OddAnswerError(f"HTTP {status} with {content_range or 'no Content-Range'} for bytes {start} to {stop}")
