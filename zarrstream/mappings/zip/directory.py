"""What is in an archive: its central directory, read once per version of the file."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zarrstream.errors import StoreCorruptError
from zarrstream.mappings.zip.entries import UTF8_NAME, EntryFile
from zarrstream.mappings.zip.errors import no_file, translating

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterator

Identity = tuple[int, ...]
_UNIX = 3  # what an entry says of the system that it comes from
_REGULAR = stat.S_IFREG
# What `zipfile` raises of bytes that are no archive.
_DAMAGES = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, EOFError)


class Directory:
    """One version of an archive: the open file, and where each key's entry is in it.

    Parameters
    ----------
    file : EntryFile or None
        The open file; None where there is no archive.
    identity : tuple of int or None
        What tells this version from any other; None where there is no archive.
    entries : dict of str to ZipInfo
        By key. Of several entries of one name the last counts, as in every zip tool.
    starts : list of int
        Where entries begin, those of no key included, and where the last one ends: sorted.
    comment : bytes
        The archive's own comment.
    """

    def __init__(
        self,
        file: EntryFile | None = None,
        identity: Identity | None = None,
        entries: dict[str, zipfile.ZipInfo] | None = None,
        *,
        starts: list[int] | None = None,
        comment: bytes = b"",
    ) -> None:
        self.file = file
        self.identity = identity
        self.entries = entries or {}
        self.starts = starts or []
        self.comment = comment

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written to it: no file, or an empty one, such as a temporary file's."""
        return not self.starts


def identity_of(path: str) -> Identity | None:
    """Return what tells the file at a path from what was there before; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # at each call: pathlib takes three times as long
    except FileNotFoundError:
        return None
    except OSError:
        with translating(path):
            raise
    return _identity(found)


def _identity(found: os.stat_result) -> Identity:
    # Zip tools change a file in place, or put another there: size and time are for the former.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_file(path: str) -> tuple[EntryFile, os.stat_result]:
    """Open a file to read; returns it, and what the system says of it."""
    with translating(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # before it is opened: a pipe would wait for ever
            raise no_file(path)
        file = EntryFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
        return file, os.fstat(file.descriptor)


def read_directory(path: str, *, may_be_empty: bool) -> Directory:
    """Open an archive and read its directory.

    Parameters
    ----------
    path : str
        The archive.
    may_be_empty : bool
        Whether a file without a byte is an archive without an entry, and not a damaged one.

    Raises
    ------
    StoreCorruptError
        There is no zip archive, or a damaged one.
    """
    file, found = open_file(path)
    if may_be_empty and not found.st_size:
        return Directory(file, _identity(found))
    try:
        with translating(path), _cut_short(), zipfile.ZipFile(_Positions(file.descriptor)) as archive:
            entries = {_rename(info): info for info in archive.filelist if not _is_folder(info)}
            file.end = archive.start_dir
            starts = _starts(archive)
            comment = archive.comment
    except _DAMAGES as error:
        raise StoreCorruptError(
            f"{path!r} is no zip archive, or a damaged one ({error}): check the path, restore it, or try zip -FF"
        ) from error
    return Directory(file, _identity(found), entries, starts=starts, comment=comment)


@contextmanager
def _cut_short() -> Iterator[None]:
    """Take a position before the beginning for what it is: the file's fault, and not the system's."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile("it is cut short") from error


def reopened(directory: Directory, path: str) -> Directory | None:
    """Return the same version with a descriptor of its own; None where another version is at the path by now."""
    file, found = open_file(path)
    if _identity(found) != directory.identity or directory.file is None:
        return None
    file.end = directory.file.end
    return written(file, directory.entries, directory.starts, directory.comment)


def written(file: EntryFile, entries: dict[str, zipfile.ZipInfo], starts: list[int], comment: bytes) -> Directory:
    """Return the directory of a file whose content is known."""
    with translating(file.path):
        found = os.fstat(file.descriptor)
    return Directory(file, _identity(found), entries, starts=starts, comment=comment)


def _starts(archive: zipfile.ZipFile) -> list[int]:
    starts = sorted({*(info.header_offset for info in archive.filelist), archive.start_dir})
    if starts[0] < 0:
        raise zipfile.BadZipFile("its beginning is missing")
    return starts


def _rename(info: zipfile.ZipInfo) -> str:
    """Return the entry's name, which Unix's zip writes in UTF-8 even where it does not say so."""
    if info.create_system == _UNIX and not info.flag_bits & UTF8_NAME and not info.filename.isascii():
        with suppress(UnicodeError):
            info.filename = info.orig_filename.encode("cp437").decode()
    return info.filename


def _is_folder(info: zipfile.ZipInfo) -> bool:
    # Zip tools note folders by a slash at the end. A key of ours may end so, too: it is marked as a regular file.
    return info.filename.endswith("/") and stat.S_IFMT(info.external_attr >> 16) != _REGULAR


class _Positions(io.RawIOBase):
    """A descriptor as a file for `zipfile`, with a position of its own: a fork would share the descriptor's.

    Parameters
    ----------
    descriptor : int
        It stays open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        if base + offset < 0:  # as a file says it: `zipfile` looks for what is longer than an archive without entries
            raise OSError(errno.EINVAL, "it is cut short")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
