"""What the calls below a chunk or a store's operation note on it, where somebody listens."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from zarrstream.concurrency.context import bound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Note:
    """What the calls below a chunk or a store's operation have to say of it.

    Attributes
    ----------
    attempts : int
        How often it was tried.
    cache_hit : bool or None
        Whether a cache had it; None where none was asked.
    """

    __slots__ = ("above", "attempts", "cache_hit")

    def __init__(self) -> None:
        self.attempts = 1
        self.cache_hit: bool | None = None
        self.above: Note | None = None

    def __iter__(self) -> Iterator[Note]:
        """Yield this note and those of what it is a part of."""
        note: Note | None = self
        while note is not None:
            yield note
            note = note.above

    @property
    def attributes(self) -> dict[str, Any]:
        """What of it is worth an attribute."""
        found: dict[str, Any] = {}
        if self.attempts > 1:
            found["zarrstream.attempts"] = self.attempts
        if self.cache_hit is not None:
            found["zarrstream.cache.hit"] = self.cache_hit
        return found


@contextmanager
def noting(note: Note) -> Iterator[Note]:
    """Have what is noted in this context, and in copies of it, noted on this."""
    note.above = _note.get()
    with bound(_note, note):
        yield note


def noted() -> Iterable[Note]:
    """Return the notes of what is under way in this context, innermost first."""
    return _note.get() or ()


_note: ContextVar[Note | None] = ContextVar("zarrstream_note", default=None)
