"""The items of a source that are not settled yet, and how far it is settled without a gap."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zarrstream.streaming.chunk import Index


@dataclass(eq=False)
class Item:
    """One item of the source.

    Parameters
    ----------
    waiting : int
        Its chunks that are neither stored nor elided, skipped or given up.
    last : tuple of int
        The last of its chunks.
    before : tuple of int or None
        The last chunk of the item that was pulled before it.
    """

    waiting: int
    last: Index
    before: Index | None = None


class Frontier:
    """How far a source is settled without a gap. It holds the unsettled items alone, however many are settled."""

    def __init__(self) -> None:
        self._open: OrderedDict[Item, None] = OrderedDict()
        self._newest: Index | None = None

    @property
    def last_index(self) -> Index | None:
        """The last chunk of the newest item that is settled together with all before it; None before there is one."""
        first = next(iter(self._open), None)
        return self._newest if first is None else first.before

    def add(self, item: Item) -> None:
        """Follow an item that was just pulled."""
        item.before, self._newest = self._newest, item.last
        self._open[item] = None

    def settle(self, items: tuple[Item, ...]) -> None:
        """Take note that one chunk of each of these is stored, elided, skipped or given up."""
        for item in items:
            item.waiting -= 1
            if not item.waiting:
                del self._open[item]
