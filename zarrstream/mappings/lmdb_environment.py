"""One LMDB environment per folder and process: opened on use, grown, never carried through a fork."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import WeakSet, WeakValueDictionary

import lmdb

from zarrstream.errors import StoreCorruptError, StoreError, StoreOptionError, StoreUnavailableError
from zarrstream.mappings.links import ThreadLinks
from zarrstream.mappings.lmdb_errors import file_system_bytes, is_open_twice, translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from zarrstream.mappings.lmdb_share import Share

Durability = Literal["full", "normal", "off"]
Transaction = lmdb.Transaction
Cursor = lmdb.Cursor
Error = lmdb.Error
ReadersFullError = lmdb.ReadersFullError

_STRICTEST = ("off", "normal", "full")
_READERS = 1024  # how many transactions may read at once, over all processes; LMDB's 126 is eight workers of 16 threads
_LOCK_BYTES = 17 * 4096  # that many slots of 64 bytes, and the header
_PATIENCE_SECONDS = 5.0


class Folder:
    """Where an environment lies.

    Parameters
    ----------
    path : str
        The absolute path, links resolved.
    what : str
        What users call the database.
    """

    mode = 0o666  # of the files, less the umask

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what

    def entered(self, *, create: bool) -> AbstractContextManager[object]:
        """Return what is held while the environment is opened; with ``create`` it may make what the folder lies in."""
        return nullcontext(create)

    def make(self) -> None:
        """Make the folder, in one that is there."""
        try:
            os.mkdir(self.path)  # noqa: PTH102  # text throughout: no path is taken apart here
        except FileExistsError:
            return
        except FileNotFoundError as error:
            raise StoreUnavailableError(
                f"{self.what} has no folder to lie in: make '{os.path.dirname(self.path)}', or mount what it is on"  # noqa: PTH120
            ) from error

    def left(self) -> None:
        """Do what is due after the environment was closed."""


class Environment(ThreadLinks[Any]):
    """The environment of one folder in this process, shared by all mappings there.

    LMDB forbids a process to open one twice. Its links hold nothing but their locks: a thread that holds its own is
    within a transaction, and who holds all of them is alone.

    Parameters
    ----------
    folder : Folder
        Where it lies.

    Attributes
    ----------
    handle : lmdb.Environment or None
        None until the first use, and again after the last user's `close`, and after a fork.
    users : set
        The shares of the mappings that use it.
    map_size : int
        How many bytes are mapped.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.folder = folder
        self.data = f"{folder.path}/data.mdb"
        self.handle: lmdb.Environment | None = None
        self.users: WeakSet[Share] = WeakSet()
        self.map_size = 0
        self._identity: tuple[int, ...] = ()
        self._durability: Durability = "off"

    # -- who is within ------------------------------------------------------------------------------------------------

    def hold(self) -> Iterator[threading.RLock]:
        """Close the environment, and yield the locks that keep others from opening it: before a fork."""
        yield from super().hold()
        self.shut()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no thread of this process is in a transaction, and keep it so. The caller is in none."""
        held: list[threading.RLock] = []
        try:
            for lock in super().hold():
                held.append(lock)  # noqa: PERF402  # each must be on the list before the next is waited for
            yield
        finally:
            while held:
                held.pop().release()

    # -- opening and closing ------------------------------------------------------------------------------------------

    def is_current(self) -> bool:
        """Return whether the open environment is what is at the path now."""
        try:
            found = os.stat(self.data)  # noqa: PTH116  # at most calls; pathlib takes three times as long
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def connect(self, share: Share, *, create: bool) -> bool:
        """Open the environment, if there is one or one is to be made; return whether it is open. Alone only.

        Raises
        ------
        StoreUnavailableError
            It was there when the share last looked, and is gone.
        """
        with self.folder.entered(create=create):
            there = self._there()
            stricter = _STRICTEST.index(share.durability) > _STRICTEST.index(self._durability)
            if there != self._identity or stricter:
                self.shut()
            if there is None and share.seen:
                raise StoreUnavailableError(
                    f"{self.folder.what} is gone, though it was there before: bring it back, or close() the store to "
                    f"begin anew"
                )
            if self.handle is None and (there is not None or create):
                if stricter:
                    self._durability = share.durability
                self._open(max(self.map_size, share.map_size), create=create)
            return self.handle is not None

    def shut(self) -> None:
        """Close the environment, if it is open. Alone only."""
        handle, self.handle, self._identity = self.handle, None, ()
        if handle is not None:
            handle.close()

    def leave(self, share: Share) -> None:
        """Count one user less, and close after the last. Alone only."""
        self.users.discard(share)
        if not self.users:
            self.shut()
            self.map_size, self._durability = 0, "off"
            self.folder.left()

    def _there(self) -> tuple[int, int] | None:
        """Return what tells the file at the path from any other one; None where there is none."""
        try:
            found = os.stat(self.data)  # noqa: PTH116  # as above
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise StoreOptionError(f"{self.folder.what} is no folder, but a file: name a folder") from error
        except OSError as error:
            raise translated(error, self.folder.path, self.folder.what) from error
        return found.st_dev, found.st_ino

    def _open(self, map_size: int, *, create: bool) -> None:
        read_only = not create and not os.access(self.data, os.W_OK)
        try:
            if create:
                self.folder.make()
            if not read_only:
                _reserve(f"{self.folder.path}/lock.mdb", self.folder.mode)
            handle = self._opened(map_size, read_only=read_only)
            self.handle, self._identity = handle, self._there() or ()
            handle.reader_check()  # what killed readers left would keep old pages from being used again
            self.map_size = handle.info()["map_size"]
            self._check(handle)
        except StoreError:
            self.shut()
            raise
        except (lmdb.Error, OSError) as error:
            self.shut()
            self._fail(error)

    def _opened(self, map_size: int, *, read_only: bool) -> lmdb.Environment:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return lmdb.open(
                    self.folder.path,
                    map_size=map_size,
                    readonly=read_only,
                    sync=self._durability != "off",
                    metasync=self._durability == "full",
                    mode=self.folder.mode,
                    create=False,
                    max_readers=_READERS,
                    # One read transaction is kept to be renewed. It holds a slot, which a fork must not meet: we close.
                    max_spare_txns=1,
                )
            except lmdb.Error as error:
                # A dropped environment of ours may be closing at this moment, in another thread.
                if not is_open_twice(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def _check(self, handle: lmdb.Environment) -> None:
        flags = [name for name, there in handle.open_db(None).flags().items() if there]
        if flags:
            raise StoreCorruptError(f"{self.folder.what} is no zarr store (its keys are {flags}): write to another")

    # -- when a transaction failed ------------------------------------------------------------------------------------

    def mend(self, error: lmdb.Error, handle: lmdb.Environment | None, map_size: int, *, patient: bool) -> None:
        """Remove the cause of a failure, if that can be done and the call be repeated; otherwise raise our error.

        Parameters
        ----------
        error : lmdb.Error
            The failure.
        handle : lmdb.Environment or None
            What was used.
        map_size : int
            How large its map was then.
        patient : bool
            Whether the call may wait for others.
        """
        with self.alone():
            if handle is None or self.handle is not handle:
                return  # a signal handler forked, or closed it, in the midst of the call
            if isinstance(error, lmdb.MapResizedError):
                self._resize(0)
            elif isinstance(error, lmdb.MapFullError):
                # Another thread may have seen to it; and the pages that a killed reader held are room, too.
                if self.map_size == map_size and not handle.reader_check():
                    self._grow(error)
            elif not isinstance(error, lmdb.ReadersFullError) or not (handle.reader_check() or patient):
                if isinstance(error, lmdb.PanicError | lmdb.DiskError | lmdb.ReadonlyError):
                    self.shut()  # it may be better next time
                self._fail(error)

    def _grow(self, error: lmdb.Error) -> None:
        room = file_system_bytes(self.folder.path)
        if room is not None and self.map_size > 2 * room:
            self._fail(error)
        self._resize(2 * self.map_size)

    def _resize(self, map_size: int) -> None:
        handle = self.handle
        if handle is None:
            return
        try:
            handle.set_mapsize(map_size)
            self.map_size = handle.info()["map_size"]
        except lmdb.Error as error:
            self.shut()
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        raise translated(error, self.folder.path, self.folder.what) from error


def _reserve(path: str, mode: int) -> None:
    """Give the lock file its room on the disk: written to as memory, it would be a SIGBUS where there is none left.

    A file that has its room is not touched, since it may be in use: no byte more, as each user has mapped its length.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        found = os.fstat(descriptor)
        wanted = found.st_size or _LOCK_BYTES
        if found.st_blocks * 512 < wanted:
            os.posix_fallocate(descriptor, 0, wanted)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            if not os.fstat(descriptor).st_size:
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108  # text, as above
            raise
    finally:
        os.close(descriptor)


_environments: WeakValueDictionary[str, Environment] = WeakValueDictionary()
_guard = threading.RLock()


def environment_in(folder: Folder) -> Environment:
    """Return this process's environment of a folder."""
    with _guard:
        environment = _environments.get(folder.path)
        if environment is None:
            environment = _environments[folder.path] = Environment(folder)
        return environment


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release)
