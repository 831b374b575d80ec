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
        for meta in (self._read(_HEADER, _META.size), self._read(self.size + _HEADER, _META.size)):
            *magic, root, last, made_by = _META.unpack(meta)
            if tuple(magic) != _MAGIC:
                return True  # another LMDB's layout: nothing can be told of it
            if made_by == transaction:
                there = self.file.seek(0, 2) // self.size
                lacking = set(range(there, last + 1))
                if lacking and not lacking <= set(self._free(root)):
                    raise CutShortError(f"{there * self.size:,} of {(last + 1) * self.size:,} bytes are there")
                return True
        return False

    def _free(self, root: int) -> Iterator[int]:
        """Yield the numbers on the list of free pages, below a page of its tree."""
        if root == _NOWHERE:
            return
        page = self._read(root * self.size, self.size)
        _, _, flags, end, _ = _PAGE.unpack_from(page)
        for (at,) in struct.iter_unpack("=H", page[_HEADER:end]):
            low, high, kind, key = _NODE.unpack_from(page, at)
            length, at_data = low | high << 16, at + _NODE.size + key
            if flags & _BRANCH:
                yield from self._free(length | kind << 32)
                continue
            data = page[at_data : at_data + length]
            if kind & _BIG:
                (number,) = struct.unpack_from("=Q", page, at_data)
                data = self._read(number * self.size + _HEADER, length)
            count, *numbers = struct.unpack(f"={length // 8}Q", data)
            yield from numbers[:count]

    def _read(self, start: int, nbytes: int) -> bytes:
        self.file.seek(start)
        found = self.file.read(nbytes)
        if len(found) < nbytes:
            raise CutShortError("its list of free pages is not all there")
        return found
