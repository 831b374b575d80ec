"""What a driver of cloud storage has to know: objects under names in one bucket, and whether the bucket answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


class Bucket(Protocol):
    """One bucket or container, by one client, on one event loop.

    Names are whole: nothing is put before them. An object that is absent by the service's own word is
    `FileNotFoundError`; a 404 by anybody else is `OddAnswerError`. What is no answer of this service's is an error:
    a write returns once the service itself has acknowledged it. All other errors are the client's own.
    """

    #: How many objects `delete` takes: those that the service removes in one request.
    deletes_at_once: int

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Return an object's bytes, or a half-open range of one or more; a negative start counts from the end.

        Raises
        ------
        CutShortError
            Fewer bytes came than the server had promised.
        OddAnswerError
            The answer does not say that it is this object's, and these bytes of it.
        """

    async def put(self, name: str, value: Any, *, create: bool = False) -> None:
        """Store an object; with ``create``, `FileExistsError` where there is one."""

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects, whether or not they are there: at most `deletes_at_once`."""

    async def size(self, name: str) -> int:
        """Return how many bytes an object has."""

    def pages(self, prefix: str) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield the names that begin so, and their sizes, page by page.

        One request at a time: after an error the next `anext` asks for the same page again. So in `level`.
        """

    def level(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yield, page by page, what follows ``prefix`` in the names that begin so, up to the next slash."""

    async def answer(self, prefix: str) -> None:
        """Return if the bucket is there; ``prefix`` is where this user may look."""

    async def close(self) -> None:
        """Close the client's connections."""


def batched(names: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """Yield the names, so many at once, as `itertools.batched` does from Python 3.12 on."""
    for first in range(0, len(names), count):
        yield names[first : first + count]


def header(start: int, stop: int | None) -> dict[str, str]:
    """Return the HTTP header of a range, which for a whole object is none (RFC 9110, 14.2)."""
    if start == 0 and stop is None:
        return {}
    if start < 0:
        return {"Range": f"bytes={start}"}
    return {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
