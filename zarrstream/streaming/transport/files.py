"""Chunks straight from and to the files of a local directory: a third of what a chunk costs through zarr's LocalStore.

A write goes to a temporary file in the array's folder and is renamed: a reader sees the old chunk or the new one. The
name starts with a dot and holds host, process and a token of that process, so that no chunk key has it and whoever
comes next can tell whether its writer still lives.
"""

from __future__ import annotations

import errno
import os
import socket
import zlib
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zarrstream.concurrency.file_lock import FileLock
from zarrstream.concurrency.one_version import asked_version, saw_version
from zarrstream.errors import StoreAccessError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_PREFIX = ".zarrstream-"
_SUFFIX = ".partial"
_LOCK = ".lock"
_LOCKS = 256  # files by which the objects of an array are locked
_PARTS = 4  # host, process, token and number
_VECTORS = 512  # pieces that one call writes; POSIX promises 16, Linux and macOS take 1024
_NO_FILE = 1 << 50  # bytes; where ext4 and others say that a folder ends
_MOST_FOLDERS = 10_000  # folders known to be there; one more system call is cheaper than unbounded memory
_HOST = socket.gethostname().replace("-", "_").replace("/", "_")
_numbers = count()
_token = uuid4().hex


def _new_token() -> None:
    global _token  # noqa: PLW0603  # a forked child is another writer
    _token = uuid4().hex


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_token)


class FileTransport:
    """The files of one local array.

    Parameters
    ----------
    root : Path
        The store's folder.
    folder : str
        The array's path in it.
    document : str
        The name of its metadata document. Where that is gone, the place is lost: an absent chunk is none then, and
        nothing is made in its place.
    """

    def __init__(self, root: Path, folder: str, document: str) -> None:
        self._root = f"{root}{os.sep}"
        self._folder = os.path.join(root, folder)
        self._document = os.path.join(self._folder, document)
        self._made: set[str] = set()

    def check_there(self) -> None:
        """Make sure that the array is still there.

        Raises
        ------
        StoreUnavailableError
            Its metadata document is not.
        """
        try:
            os.stat(self._document)
        except OSError as error:
            raise StoreUnavailableError(
                f"the array in {self._folder!r} is lost: its metadata, {self._document!r}, cannot be found "
                f"({error.strerror}). Mount or restore the folder, or open the array where it is now"
            ) from error

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Read a value or a range of it; None where there is no such file.

        Parameters
        ----------
        key : str
            The store's key.
        start, stop : int
            A half-open byte range; a negative start counts from the end.
        """
        try:
            descriptor = os.open(self._root + key, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            self.check_there()
            return None
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)  # `fstat` makes an object that costs more than the call
            if size > _NO_FILE:
                return None
            if start == 0 and stop is None:
                return _read(descriptor, size, 0)
            if asked_version() is not None:  # a chunk is replaced by another file, never changed
                found = os.fstat(descriptor)
                saw_version((found.st_ino, found.st_mtime_ns, found.st_size))
            first = max(0, size + start) if start < 0 else start
            return _read(descriptor, max(0, (size if stop is None else min(stop, size)) - first), first)
        except IsADirectoryError:
            return None
        finally:
            os.close(descriptor)

    def put(self, key: str, pieces: Iterable[Any]) -> None:
        """Write a value, in pieces, so that it is there as a whole or not at all."""
        name = f"{_PREFIX}{_HOST}-{os.getpid()}-{_token}-{next(_numbers)}{_SUFFIX}"
        target = self._root + key
        temporary = os.path.join(self._folder, name)
        self._make_parent(os.path.dirname(target))
        try:
            self._write(temporary, pieces)
            try:
                self._rename(temporary, target)
            except OSError as error:
                if error.errno != errno.EXDEV:  # a chunk folder that is a mount of its own: write beside the target
                    raise
                os.unlink(temporary)
                temporary = os.path.join(os.path.dirname(target), name)
                self._write(temporary, pieces)
                os.replace(temporary, target)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise

    def lock(self, key: str) -> FileLock:
        """Return the lock under which processes merge into an object; objects of one remainder share one file."""
        name = f"{_PREFIX}merge-{zlib.crc32(key.encode()) % _LOCKS:02x}{_LOCK}"
        return FileLock(os.path.join(self._folder, name), mode=0o666, remove=True, sign=False)

    def acquire(self, lock: FileLock) -> None:
        """Wait for a lock and take it.

        Raises
        ------
        StoreUnavailableError
            The array is lost.
        StoreAccessError
            The lock's file cannot be made or opened: whoever has another one beside it may be merging.
        """
        try:
            lock.acquire()
        except FileNotFoundError:
            self.check_there()
            raise
        except OSError as error:
            raise StoreAccessError(
                f"{lock.path!r} cannot be locked ({error.strerror}), so that another process may merge into the same "
                "chunk: make the folder and what is in it writable for all of its writers, and write it again"
            ) from error

    def _make_parent(self, folder: str) -> None:
        """Make a chunk's folder: to be told by a failing rename costs more than the rename."""
        if folder in self._made:
            return
        self.check_there()
        try:
            os.mkdir(folder)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self._make_folders(folder)
        if len(self._made) >= _MOST_FOLDERS:
            self._made.clear()
        self._made.add(folder)

    def _make_folders(self, folder: str) -> None:
        """Make a folder and those above it, but none above the array's."""
        self.check_there()
        os.makedirs(folder, exist_ok=True)

    def delete(self, key: str) -> None:
        """Remove a value; one that is not there is none to remove."""
        try:
            os.unlink(self._root + key)
        except (FileNotFoundError, NotADirectoryError):
            return

    def keys(self) -> Iterator[str]:
        """Yield the store's keys of all files of the array.

        Raises
        ------
        StoreUnavailableError
            The array is lost.
        StoreAccessError
            One of its folders may not be listed.
        """
        self.check_there()
        folders = [self._folder]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir():
                            folders.append(entry.path)
                        else:
                            yield entry.path.removeprefix(self._root)
            except FileNotFoundError as error:  # removed meanwhile, with its chunks
                self.check_there()
                if folder == self._folder:
                    raise StoreUnavailableError(f"the folder {folder!r} is lost: mount or restore it") from error
            except OSError as error:
                raise StoreAccessError(
                    f"the folder {folder!r} cannot be listed ({error.strerror}), so that nobody knows which chunks are "
                    f"in it: make it readable"
                ) from error

    def sweep(self) -> int:
        """Remove the temporary files of writers on this host that are gone; returns how many there were."""
        swept = 0
        try:
            names = os.listdir(self._folder)
        except OSError:  # it cannot be listed, or is lost: the first chunk says which
            return 0
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_LOCK):
                with suppress(OSError):  # as below
                    abandoned = FileLock(os.path.join(self._folder, name), remove=True, sign=False)
                    swept += abandoned.acquire(wait=False)
                    abandoned.release()
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX) and _is_orphan(name):
                with suppress(OSError):  # another writer swept it, or it is no file of ours: tidying fails no write
                    os.unlink(os.path.join(self._folder, name))
                    swept += 1
        return swept

    def _write(self, path: str, pieces: Iterable[Any]) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            self._make_folders(os.path.dirname(path))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            views = [memoryview(piece).cast("B") for piece in pieces]
            if len(views) == 1:
                written = os.write(descriptor, views[0])
            else:
                written = sum(os.writev(descriptor, views[at : at + _VECTORS]) for at in range(0, len(views), _VECTORS))
            if written < sum(map(len, views)):  # a call takes at most 2 GiB, and a full disk what it has left
                os.lseek(descriptor, 0, os.SEEK_SET)
                for view in views:
                    _write_all(descriptor, view)
        finally:
            os.close(descriptor)

    def _rename(self, temporary: str, target: str) -> None:
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            self._make_folders(os.path.dirname(target))
            os.replace(temporary, target)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:  # one read call returns at most 2 GiB
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            return data  # the file was cut short meanwhile: the decoder finds it out
        data += more
    return data


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def _is_orphan(name: str) -> bool:
    parts = name.removeprefix(_PREFIX).removesuffix(_SUFFIX).rsplit("-", 3)
    if len(parts) != _PARTS or parts[0] != _HOST or not parts[1].isdecimal():
        return False  # somebody else's, or another machine's, on a shared file system: only it can tell
    _, process, token, _ = parts
    if int(process) == os.getpid():
        return token != _token  # the same number, given anew, as in every container that is started again
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OverflowError:  # no process has such a number, so that no writer of ours made the name
        return False
    except PermissionError:
        return False
    return False
