"""Walks over names in order, page by page, without a cursor that stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from zarrstream.mappings.sqlite.statements import successor  # MongoDB's simple collation compares UTF-8 as well

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS_AT_ONCE = 1024
_FIRST_PAGE = 32


class Page(Protocol):
    """How names are fetched."""

    def __call__(self, low: str, high: str | bytes, after: str | None, limit: int, /) -> list[str]:
        """Return the first names from ``low`` (or behind ``after``) to before ``high`` (a blob: to the end)."""


def names_under(prefix: str, page: Page) -> Iterator[str]:
    """Yield the names that start with ``prefix``, each once."""
    high, after = successor(prefix), None
    while True:
        found = page(prefix, high, after, KEYS_AT_ONCE)
        yield from dict.fromkeys(found)
        if len(found) < KEYS_AT_ONCE:
            return
        after = found[-1]


def children(prefix: str, page: Page) -> Iterator[str]:
    """Yield what stands between ``prefix`` and the next slash, skipping what is beneath it; some of it twice.

    A page that ends beneath a name is followed by one behind all that is there. Pages grow where they bring new names.
    """
    high, low, after, limit = successor(prefix), prefix, None, _FIRST_PAGE
    while True:
        found = page(low, high, after, limit)
        names = dict.fromkeys(name[len(prefix) :].partition("/")[0] for name in found)
        yield from names
        if len(found) < limit:
            return
        last = f"{prefix}{next(reversed(names))}"
        if found[-1] == last:
            after = last
        else:
            low, after = f"{last}0", None  # "0" follows "/"
        limit = min(limit * 2, KEYS_AT_ONCE) if len(names) > limit // 2 else _FIRST_PAGE
