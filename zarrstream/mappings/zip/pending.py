"""What is written and not yet published: entries in a file without a name, as they will stand in the archive."""

from __future__ import annotations

import copy
import os
import time
import zipfile
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from zarrstream.mappings.zip.entries import UTF8_NAME, EntryFile, copy_bytes, write_all
from zarrstream.mappings.zip.errors import translating

if TYPE_CHECKING:
    from collections.abc import Iterable

# The times that a zip archive has room for.
_FIRST = (1980, 1, 1, 0, 0, 0)
_LAST = (2107, 12, 31, 23, 59, 58)
# What a spill may hold beyond twice its live entries before it is written anew: overwritten values lie in it.
_SLACK = 64 << 20


def new_entry(key: str, value: bytes | memoryview) -> zipfile.ZipInfo:
    """Return the entry of a value that is stored as it is."""
    info = zipfile.ZipInfo(key, min(max(_FIRST, time.localtime()[:6]), _LAST))
    info.external_attr = 0o100644 << 16  # a regular file, whatever its name
    info.create_system = 3  # whose permissions those are: Unix
    info.flag_bits = 0 if key.isascii() else UTF8_NAME
    info.CRC = zlib.crc32(value)
    info.file_size = info.compress_size = len(value) if isinstance(value, bytes) else value.nbytes
    return info


class Spill(EntryFile):
    """A file that only grows, so that readers need no lock; it goes away with its process, however that ends.

    Parameters
    ----------
    name : str
        Where it is made: beside the archive, since a temporary folder is often memory, and small.
    path : str
        The archive's path.
    """

    def __init__(self, name: str, path: str) -> None:
        with translating(path):
            # A process killed between these lines leaves an empty file, which the next writer takes away.
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108  # paths are plain text in this back end
            super().__init__(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path)
            os.unlink(name)  # noqa: PTH108
        self.name = name
        self.length = 0
        self.live = 0

    @property
    def is_wasteful(self) -> bool:
        """Whether most of it is what was overwritten."""
        return self.length > 2 * self.live + _SLACK

    def append(self, entries: Iterable[tuple[zipfile.ZipInfo, bytes | memoryview]]) -> None:
        """Add entries with their values, all or none.

        Raises
        ------
        StoreFullError
            There is no room.
        """
        before = self.length
        try:
            with translating(self.path):
                for info, value in entries:
                    header = info.FileHeader()
                    info.header_offset = self.length
                    write_all(self.descriptor, header, self.length)
                    write_all(self.descriptor, value, self.length + len(header))
                    self.length += len(header) + info.file_size
        except BaseException:
            self.length = before
            with suppress(OSError):  # what is behind the end is never read
                os.ftruncate(self.descriptor, before)
            raise
        self.live += self.length - before

    def forget(self, info: zipfile.ZipInfo | None) -> None:
        """Take an entry of this spill, if it is one, for overwritten."""
        if info is not None:
            self.live -= entry_length(info)

    def compacted(self, pending: dict[str, zipfile.ZipInfo | None]) -> tuple[Spill, dict[str, zipfile.ZipInfo | None]]:
        """Return a new spill with the live entries alone, and where they are in it."""
        spill = Spill(self.name, self.path)
        moved: dict[str, zipfile.ZipInfo | None] = {}
        for key, info in pending.items():
            moved[key] = info and copy.copy(info)
            if info is not None:
                length = entry_length(info)
                with translating(self.path):
                    copy_bytes(self.descriptor, info.header_offset, length, spill.descriptor, spill.length)
                moved[key].header_offset = spill.length  # type: ignore[union-attr]  # it is the copy
                spill.length += length
        spill.live = spill.length
        return spill, moved


def entry_length(info: zipfile.ZipInfo) -> int:
    """Return how many bytes an entry of a spill takes, header included."""
    return len(info.FileHeader()) + info.file_size
