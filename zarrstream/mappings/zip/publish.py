"""A new version of an archive: what stays is copied as it is, what is pending is put behind it, then it is renamed."""

from __future__ import annotations

import bisect
import copy
import io
import json
import os
import stat
import struct
import sys
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from zarrstream.errors import StoreCorruptError
from zarrstream.mappings.zip.directory import Directory, written
from zarrstream.mappings.zip.entries import UTF8_NAME, EntryFile, copy_bytes, write_all
from zarrstream.mappings.zip.errors import translating
from zarrstream.mappings.zip.pending import entry_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.mappings.zip.pending import Spill

_LOCAL_HEADER_BYTES = 30
_ZIP64_EXTRA = 1


class Part(NamedTuple):
    """An entry of the new version.

    Attributes
    ----------
    info : ZipInfo
        As it was.
    file : EntryFile
        Where its bytes are.
    start, stop : int
        Where in it.
    header : bytes
        A local header to be put before these bytes; empty where they begin with it.
    """

    info: zipfile.ZipInfo
    file: EntryFile
    start: int
    stop: int
    header: bytes = b""


def write_anew(
    path: str, name: str, base: Directory, pending: dict[str, zipfile.ZipInfo | None], spill: Spill | None
) -> Directory:
    """Write the new version beside the old one, and make sure of it.

    Parameters
    ----------
    path : str
        The archive.
    name : str
        The new version's name until it is whole. Only the holder of the archive's lock may use it.
    base : Directory
        The old version.
    pending : dict
        What is written, and None for what is deleted.
    spill : Spill or None
        Where the written entries are.

    Returns
    -------
    Directory
        The new version, open.
    """
    with translating(path), _removing(name):
        remove(name, path)
        # Nobody reads more of it while it is written, or after a kill, than of the archive.
        mode = 0o666 if base.file is None else 0o600
        file = EntryFile(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), path)
        entries, starts = _write_entries(file, _parts(base, pending, spill))
        _write_directory(file.descriptor, _ordered(entries, base.comment), starts[-1], base.comment)
        if base.file is not None:
            _keep_rights(base.file.descriptor, file.descriptor)
        os.fsync(file.descriptor)
        file.end = starts[-1]
        return written(file, entries, starts, base.comment)


def put_in_place(name: str, path: str) -> None:
    """Give the new version the old one's name, in one step."""
    with translating(path), _removing(name):
        os.replace(name, path)  # noqa: PTH105  # paths are plain text in this back end


@contextmanager
def _removing(name: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what has failed is the news
            os.unlink(name)  # noqa: PTH108
        raise


def _keep_rights(old: int, new: int) -> None:
    """Give the new version the owner, group and permissions of the old one, or less where it cannot be the same."""
    found, made = os.fstat(old), os.fstat(new)
    mode = stat.S_IMODE(found.st_mode)
    if (found.st_uid, found.st_gid) != (made.st_uid, made.st_gid):
        try:
            os.fchown(new, found.st_uid, found.st_gid)
        except OSError:
            try:
                os.fchown(new, -1, found.st_gid)
            except OSError:
                # Another group: it may do what all others may.
                mode = mode & ~0o070 | (mode & 0o007) << 3
    if mode != stat.S_IMODE(made.st_mode):
        os.fchmod(new, mode)


def sync_folder(path: str) -> None:
    """Make sure of the renaming: without it a power loss may bring the old version back."""
    with translating(path):
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH120
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(name: str, path: str) -> None:
    """Remove a file of an archive if it is there."""
    with translating(path), suppress(FileNotFoundError):
        os.unlink(name)  # noqa: PTH108


def _parts(base: Directory, pending: dict[str, zipfile.ZipInfo | None], spill: Spill | None) -> Iterator[Part]:
    kept = [info for key, info in base.entries.items() if key not in pending]
    kept.sort(key=lambda info: info.header_offset)
    for info in kept:
        yield _kept(base, info)
    for info in sorted(filter(None, pending.values()), key=lambda info: info.header_offset):
        assert spill is not None  # noqa: S101  # told to the type checker: what is pending is in it
        yield Part(info, spill, info.header_offset, info.header_offset + entry_length(info))


def _kept(base: Directory, info: zipfile.ZipInfo) -> Part:
    """Return an entry up to the next one: with its data descriptor, and with whatever a tool has put between."""
    assert base.file is not None  # noqa: S101  # told to the type checker: it has entries
    at = bisect.bisect_right(base.starts, info.header_offset)
    if at == len(base.starts):
        raise StoreCorruptError(
            f"{info.filename!r} in the zip archive {base.file.path!r} has no place before the directory: restore the "
            f"archive, or delete or rewrite the key; what is pending stays pending"
        )
    stop = base.starts[at]
    if stop - info.header_offset < _LOCAL_HEADER_BYTES + info.compress_size:
        raise StoreCorruptError(
            f"{info.filename!r} in the zip archive {base.file.path!r} overlaps another entry: restore the archive, or "
            f"delete or rewrite the key"
        )
    if info.filename == info.orig_filename and (info.filename.isascii() or info.flag_bits & UTF8_NAME):
        return Part(info, base.file, info.header_offset, stop)
    # The directory will have the name in UTF-8: so must the header.
    renamed = copy.copy(info)
    renamed.orig_filename, renamed.flag_bits = info.filename, info.flag_bits | UTF8_NAME
    return Part(renamed, base.file, base.file.data_offset(info), stop, renamed.FileHeader())


def _write_entries(file: EntryFile, parts: Iterator[Part]) -> tuple[dict[str, zipfile.ZipInfo], list[int]]:
    """Copy the entries, neighbours at once; returns them where they are now, and where they begin, and the end."""
    entries: dict[str, zipfile.ZipInfo] = {}
    starts: list[int] = []
    at = 0
    run: Part | None = None
    run_at = 0
    for part in parts:
        if run is None or part.header or part.file is not run.file or part.start != run.stop:
            _copy(run, file, run_at)
            run, run_at = part, at
        else:
            run = run._replace(stop=part.stop)
        info = part.info
        if info.header_offset != at:
            info = copy.copy(info)
            info.header_offset = at
        entries[info.filename] = info
        starts.append(at)
        at += len(part.header) + part.stop - part.start
    _copy(run, file, run_at)
    return entries, [*starts, at]


def _copy(run: Part | None, file: EntryFile, at: int) -> None:
    if run is not None:
        write_all(file.descriptor, run.header, at)
        begin = at + len(run.header)
        copy_bytes(run.file.descriptor, run.start, run.stop - run.start, file.descriptor, begin)


def _ordered(entries: dict[str, zipfile.ZipInfo], comment: bytes) -> list[zipfile.ZipInfo]:
    """Return the entries as the directory has them: metadata first where the archive's comment says so.

    The comment is that of an OME-Zarr file in one archive (``.ozx``, OME-NGFF's RFC 9), whose readers find the whole
    hierarchy in the first entries: the root's document, and then the others, level by level.
    """
    infos = list(entries.values())
    try:
        first = json.loads(comment)["ome"]["zipFile"]["centralDirectory"]["jsonFirst"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return infos
    if first is True:
        infos.sort(key=lambda info: _rank(info.filename))
    return infos


def _rank(key: str) -> tuple[int, str]:
    depth = key.count("/")
    return (depth, key) if key.rpartition("/")[2] == "zarr.json" else (sys.maxsize, "")


def _write_directory(descriptor: int, entries: list[zipfile.ZipInfo], at: int, comment: bytes) -> None:
    # In memory: an archive of `zipfile` that is left by an exception writes once more when it is garbage, and by then
    # the descriptor may be another file's.
    tail = _Tail(at)
    with zipfile.ZipFile(tail, "w") as archive:  # it begins where the file stands
        archive.comment = comment
        archive.filelist.extend(_with_own_extra(info) for info in entries)
    write_all(descriptor, tail.getvalue(), at)


class _Tail(io.BytesIO):
    """The end of a file, which tells positions as the whole file has them.

    Parameters
    ----------
    start : int
        Where in the file it begins.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self._start = start

    def tell(self) -> int:
        return self._start + super().tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._start + super().seek(offset - self._start if whence == os.SEEK_SET else offset, whence)


def _with_own_extra(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Return the entry without a zip64 field: `zipfile` writes a new one where it is needed."""
    extra, left = info.extra, b""
    if not extra:
        return info
    while len(extra) >= struct.calcsize("<HH"):
        kind, length = struct.unpack_from("<HH", extra)
        if kind != _ZIP64_EXTRA:
            left += extra[: length + 4]
        extra = extra[length + 4 :]
    if left + extra == info.extra:
        return info
    info = copy.copy(info)
    info.extra = left + extra
    return info
