"""What tells a ``data.mdb`` that was cut short from one whose end was never written.

A transaction may take pages behind the end of the file and give them back before it has written them. They are on the
list of free pages then, and the file ends before them. py-lmdb does not show that list, so it is read here as LMDB 0.9
lays it out (``MDB_meta``, ``MDB_page`` and ``MDB_node`` in mdb.c): a B-tree from transactions to lists of numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 16  # bytes at the beginning of each page
_PAGE = struct.Struct("=QHHHH")  # number, -, flags, end of the pointers to nodes, -
_NODE = struct.Struct("=HHHH")  # size of the data in two halves, flags, size of the key
_META = struct.Struct("=II16x40xQ48xQQ")  # magic, version, root of the free list, last page, transaction
_MAGIC = 0xBEEFC0DE, 1
_BRANCH, _BIG = 0x01, 0x01  # of a page: nodes lead to pages; of a node: its data are on pages of their own
_NOWHERE = 2**64 - 1
_AT_ONCE = 1 << 13  # numbers


class CutShortError(Exception):
    """A page that is needed is not in the file."""


@dataclass(frozen=True)
class Pages:
    """The pages of a file.

    Attributes
    ----------
    file : binary file
        ``data.mdb``.
    size : int
        Bytes of a page.
    """

    file: BinaryIO
    size: int

    def check(self, transaction: int) -> bool:
        """Look whether all is there that a transaction may read, which has to be open meanwhile.

        Returns
        -------
        bool
            False where others have committed twice since the transaction began, so that it could not be told.

        Raises
        ------
        CutShortError
            Something is not there.
        """
        try:
            return self._check(transaction)
        except (struct.error, ValueError, OverflowError) as error:
            raise CutShortError(f"its list of free pages is damaged ({error})") from error

    def newest(self) -> int | None:
        """Return the number of the newest transaction in the file; None where another LMDB has laid it out."""
        metas = self._metas()
        return None if metas is None else max(made_by for *_, made_by in metas)

    def _metas(self) -> list[tuple[int, int, int]] | None:
        """Return the root of the free list, the last page and the transaction, twice."""
        found = []
        for meta in (self._read(_HEADER, _META.size), self._read(self.size + _HEADER, _META.size)):
            *magic, root, last, made_by = _META.unpack(meta)
            if tuple(magic) != _MAGIC:
                return None
            found.append((root, last, made_by))
        return found

    def _check(self, transaction: int) -> bool:
        metas = self._metas()
        if metas is None:
            return True  # nothing can be told of it
        for root, last, made_by in metas:
            if made_by == transaction:
                there = self.file.seek(0, 2) // self.size
                lacking = last + 1 - there
                # A page number takes eight bytes: so many as the file can hold may be free, and a damaged number,
                # or a large database of which little was copied, shall cost no more memory than that.
                if lacking > 0 and (lacking > there * self.size // 8 or self._free_of(root, there, last) < lacking):
                    raise CutShortError(f"{there * self.size:,} of {(last + 1) * self.size:,} bytes are there")
                return True
        return False

    def _free_of(self, root: int, first: int, last: int) -> int:
        """Return how many of the pages ``first`` to ``last`` are on the list of free ones."""
        return len({number for number in self._free(root, set()) if first <= number <= last})

    def _free(self, root: int, seen: set[int]) -> Iterator[int]:
        """Yield the numbers on the list of free pages, below a page of its tree."""
        if root == _NOWHERE:
            return
        if root in seen:
            raise CutShortError("its list of free pages leads in a circle")
        seen.add(root)
        page = self._read(root * self.size, self.size)
        _, _, flags, end, _ = _PAGE.unpack_from(page)
        for (at,) in struct.iter_unpack("=H", page[_HEADER:end]):
            low, high, kind, key = _NODE.unpack_from(page, at)
            length, at_data = low | high << 16, at + _NODE.size + key
            if flags & _BRANCH:
                yield from self._free(length | kind << 32, seen)
            elif kind & _BIG:
                (number,) = struct.unpack_from("=Q", page, at_data)
                yield from self._numbers(number * self.size + _HEADER, length)
            else:
                count, *numbers = struct.unpack(f"={length // 8}Q", page[at_data : at_data + length])
                yield from numbers[:count]

    def _numbers(self, start: int, length: int) -> Iterator[int]:
        """Yield the numbers of a list that lies on pages of its own, some thousands at a time."""
        (count,) = struct.unpack("=Q", self._read(start, 8))
        for first in range(0, min(count, length // 8 - 1), _AT_ONCE):
            some = min(_AT_ONCE, min(count, length // 8 - 1) - first)
            yield from struct.unpack(f"={some}Q", self._read(start + 8 + 8 * first, 8 * some))

    def _read(self, start: int, nbytes: int) -> bytes:
        self.file.seek(start)
        found = self.file.read(nbytes)
        if len(found) < nbytes:
            raise CutShortError("its list of free pages is not all there")
        return found
