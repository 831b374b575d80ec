"""A file of zip entries: each value behind its local header, read by position and never by a shared offset."""

from __future__ import annotations

import codecs
import errno
import os
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from zarrstream.errors import StoreAccessError, StoreCorruptError
from zarrstream.mappings.zip.compression import decompressed
from zarrstream.mappings.zip.errors import translating

if TYPE_CHECKING:
    from collections.abc import Callable

# APPNOTE 4.3.7: signature, versions and flags and times that the directory has as well, the lengths of name and extra.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
codecs.lookup("cp437")  # loaded now: an exception of a signal handler during an import leaves the import's lock taken
UTF8_NAME = 0x800
_READ_AT_ONCE = 1 << 30  # Linux gives 2 GiB at most
# What Linux answers where two files, or the file system, cannot do it.
_NOT_IN_KERNEL = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}


class EntryFile:
    """An open file with entries in it, for any number of threads.

    Parameters
    ----------
    descriptor : int
        Owned from now on: it is closed when nobody reads from it any more, and so not under a reader's hands.
    path : str
        The archive's path, for messages.
    end : int, optional
        Where the entries end, in bytes.
    """

    descriptor = -1

    def __init__(self, descriptor: int, path: str, end: int | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        self.end = end
        self._data: dict[tuple[int, str], int] = {}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)

    def read_at(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes from position ``start``; fewer where the file ends."""
        with translating(self.path):
            piece = os.pread(self.descriptor, min(count, _READ_AT_ONCE), start)
            if len(piece) == count:
                return piece
            pieces = [piece]
            while piece and count > (have := sum(map(len, pieces))):
                piece = os.pread(self.descriptor, min(count - have, _READ_AT_ONCE), start + have)
                pieces.append(piece)
        return b"".join(pieces)

    def value(self, info: zipfile.ZipInfo, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of an entry, as in ``value[start:stop]``.

        Raises
        ------
        StoreCorruptError
            The entry is damaged. A stored entry's checksum is compared where the whole of it is read.
        StoreAccessError
            The entry is encrypted.
        """
        if info.flag_bits & _ENCRYPTED:
            raise StoreAccessError(
                f"{info.filename!r} in the zip archive {self.path!r} is encrypted: write the archive without a password"
            )
        if info.compress_type != zipfile.ZIP_STORED:
            return self._decompressed(info)[start:stop]
        if info.compress_size != info.file_size:  # before room is made for what it is said to have
            raise self._damaged(info, "it is stored, and has two lengths")
        first, last, _ = slice(start, stop).indices(info.file_size)
        wanted = max(last - first, 0)
        data = self.read_at(self.data_offset(info) + first, wanted)
        if len(data) != wanted:
            raise self._damaged(info, "it is cut short")
        if wanted == info.file_size and zlib.crc32(data) != info.CRC:
            raise self._damaged(info, "its checksum is wrong")
        return data

    def data_offset(self, info: zipfile.ZipInfo) -> int:
        """Return where an entry's data begin: only its local header knows, whose extra fields are its own."""
        # By name as well: two entries of a damaged directory may lead to one header.
        found = self._data.get((info.header_offset, info.filename))
        if found is not None:
            return found
        name = info.orig_filename.encode("utf-8" if info.flag_bits & UTF8_NAME else "cp437", "replace")
        header = self.read_at(info.header_offset, _LOCAL_HEADER.size + len(name))
        if len(header) < _LOCAL_HEADER.size:
            raise self._damaged(info, "its header is cut short")
        signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
        if (signature, name_length, header[_LOCAL_HEADER.size :]) != (_SIGNATURE, len(name), name):
            raise self._damaged(info, "its header is not where the directory says, or is another's")
        offset = info.header_offset + len(header) + int(extra_length)
        if self.end is not None and offset + info.compress_size > self.end:
            raise self._damaged(info, "it reaches into the directory")
        self._data[info.header_offset, info.filename] = offset
        return offset

    def _decompressed(self, info: zipfile.ZipInfo) -> bytes:
        raw = self.read_at(self.data_offset(info), info.compress_size)
        try:
            data = decompressed(raw, info.compress_type, info.file_size)
        except NotImplementedError as error:
            raise StoreCorruptError(
                f"{info.filename!r} in the zip archive {self.path!r} is compressed in a way that Python does not know "
                f"({error}): write the archive anew, stored or deflated"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # every decompressor of the standard library has its own
            raise self._damaged(info, str(error)) from error
        if len(data) != info.file_size:
            what = "it is cut short" if len(data) < info.file_size else "it is longer than the directory says"
            raise self._damaged(info, what)
        if zlib.crc32(data) != info.CRC:
            raise self._damaged(info, "its checksum is wrong")
        return data

    def _damaged(self, info: zipfile.ZipInfo, what: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"{info.filename!r} in the zip archive {self.path!r} is damaged ({what}): restore the archive, or delete "
            f"or rewrite the key"
        )


def copy_bytes(source: int, start: int, count: int, target: int, offset: int) -> None:
    """Copy ``count`` bytes between two descriptors, from and to a position, in the kernel where it can."""
    while count:
        done = _copy_some(source, start, min(count, _READ_AT_ONCE), target, offset)
        if not done:
            raise OSError(f"{count} bytes are missing at its end")
        start, offset, count = start + done, offset + done, count - done


def _copy_some(source: int, start: int, count: int, target: int, offset: int) -> int:
    if hasattr(os, "copy_file_range"):  # Linux; shares the blocks on file systems that can
        try:
            return os.copy_file_range(source, target, count, start, offset)
        except OSError as error:
            if error.errno not in _NOT_IN_KERNEL:
                raise
    piece = os.pread(source, min(count, 1 << 20), start)
    write_all(target, piece, offset)
    return len(piece)


def write_all(target: int, data: bytes | memoryview, offset: int) -> None:
    """Write a buffer at a position, in as many calls as the system wants."""
    view = memoryview(data)
    view = view.cast("B") if view.nbytes else memoryview(b"")  # what has a 0 in its shape has no other form
    while view:
        done = os.pwrite(target, view[:_READ_AT_ONCE], offset)
        view, offset = view[done:], offset + done
