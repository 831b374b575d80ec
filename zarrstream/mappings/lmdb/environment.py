"""One LMDB environment per folder and process: opened on use, grown, never carried through a fork."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import WeakSet, WeakValueDictionary

import lmdb

from zarrstream.concurrency.many_locks import ManyLocks
from zarrstream.concurrency.per_thread import ThreadLinks
from zarrstream.errors import StoreCorruptError, StoreError, StoreFullError, StoreOptionError, StoreUnavailableError
from zarrstream.mappings.lmdb.errors import file_system_bytes, is_open_twice, translated
from zarrstream.mappings.lmdb.folder import reserve
from zarrstream.mappings.lmdb.integrity import CutShortError, Pages
from zarrstream.mappings.lmdb.layout import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.mappings.lmdb.folder import Folder
    from zarrstream.mappings.lmdb.session import Share

Durability = Literal["full", "normal", "off"]
Transaction = lmdb.Transaction
Cursor = lmdb.Cursor
Error = lmdb.Error
ReadersFullError = lmdb.ReadersFullError

_STRICTEST = ("off", "normal", "full")
_READERS = 1024  # how many transactions may read at once, over all processes; LMDB's 126 is eight workers of 16 threads
_READERS_WAITS = 5000  # how often a reader tries to get a slot, every few milliseconds
_TURN_SECONDS = 1.0
_STEPS = 3  # how often a full file system is tried again
_PATIENCE_SECONDS = 5.0
_LOOKS = 100  # at a file that others change at each of them is one that others find whole


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
        # For this process's writers: before py-lmdb 3.0, one that aborts waits for those that wait for it.
        self.turn = threading.RLock()
        self._identity: tuple[int, ...] = ()
        self._durability: Durability = "off"

    # -- who is within ------------------------------------------------------------------------------------------------

    def hold(self) -> Iterator[threading.RLock]:
        """Close the environment, and yield the locks that keep others from opening it: before a fork."""
        self.turn.acquire()  # first, as writers do: in the child nobody else may have it
        yield self.turn
        yield from super().hold()
        self.shut()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no thread of this process is in a transaction, and keep it so. The caller is in none."""
        while True:
            held = ManyLocks()
            try:
                if self._take_all(held):
                    yield
                    return
            finally:
                held.release()

    def _take_all(self, held: ManyLocks) -> bool:
        """Take every lock; give up after a while, since a signal handler in the midst of a call may want the same."""
        held.take(self._guard)
        return all(held.take(link.lock, _TURN_SECONDS) for link in list(self._all))

    def close(self) -> None:
        """Close the environment as soon as running calls return; the next call opens it again."""
        with self.alone():
            self.shut()

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
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._try_to_open(map_size, create=create)
            except StoreError:
                self.shut()
                raise
            except (lmdb.Error, OSError) as error:  # one that passes is tried again
                self.shut()
                if not _passes(error) or time.monotonic() > deadline:
                    self._fail(error)
            else:
                return
            time.sleep(0.002)

    def _try_to_open(self, map_size: int, *, create: bool) -> None:
        read_only = not create and not os.access(self.data, os.W_OK)
        if create:
            self.folder.make()
        if not read_only:
            reserve(f"{self.folder.path}/lock.mdb", self.folder.mode)
        handle = lmdb.open(
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
        self.handle, self._identity = handle, self._there() or ()
        handle.reader_check()  # what killed readers left would keep old pages from being used again
        self.map_size = handle.info()["map_size"]
        self._check(handle)

    def _check(self, handle: lmdb.Environment) -> None:
        """Refuse what is no store of ours, and a file that was cut: to read behind its end would be a SIGBUS."""
        flags = [name for name, there in handle.open_db(None).flags().items() if there]
        if flags:
            raise StoreCorruptError(f"{self.folder.what} is no zarr store (its keys are {flags}): write to another")
        with open(self.data, "rb", buffering=0) as file:  # noqa: PTH123  # as above
            pages = Pages(file, handle.stat()["psize"])
            for _ in range(_LOOKS):
                with handle.begin() as transaction:
                    try:
                        if pages.check(transaction.id()):
                            break
                    except CutShortError as error:
                        raise StoreCorruptError(
                            f"{self.folder.what} was cut short: {error}; copy it again, whole"
                        ) from error
            self._check_one_file(handle, pages)

    def _check_one_file(self, handle: lmdb.Environment, pages: Pages) -> None:
        """Refuse a file that was put in the place of one that another process has open.

        The lock file says which transaction is the newest, and LMDB believes it while anybody has it open. Of a file
        that it is not about, an old state would be read, and what is written be lost.
        """
        for _ in range(_LOOKS):
            with handle.begin() as transaction:
                told = transaction.id()
            found = pages.newest()
            if found in {None, told}:
                return
            with handle.begin() as transaction:
                if transaction.id() == told:
                    break  # or else somebody has committed meanwhile
        if handle.flags()["readonly"]:
            same = found == told + 1  # as a writer leaves it that was killed as it committed
        else:
            with handle.begin(write=True) as transaction:  # alone; what a killed writer left is mended by this
                same = pages.newest() == transaction.id() - 1
                transaction.abort()
        if not same:
            raise StoreUnavailableError(
                f"{self.folder.what} has another data.mdb than the one that another process has open under its lock: "
                f"close the store there, and open it here then"
            )

    # -- when a transaction failed ------------------------------------------------------------------------------------

    def mend(self, error: lmdb.Error, handle: lmdb.Environment | None, map_size: int, attempt: int) -> None:
        """Remove the cause of a failure, if that can be done and the call be repeated; otherwise raise our error.

        Parameters
        ----------
        error : lmdb.Error
            The failure.
        handle : lmdb.Environment or None
            What was used.
        map_size : int
            How large its map was then.
        attempt : int
            How often the call has failed before.
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
            elif isinstance(error, lmdb.ReadersFullError):
                if not handle.reader_check() and attempt > _READERS_WAITS:
                    self._fail(error)
            elif attempt > _STEPS or not self._is_full(error) or not _step(handle):
                self.shut()  # it may be better next time
                self._fail(error)

    def _is_full(self, error: lmdb.Error) -> bool:
        return isinstance(translated(error, self.folder.path, self.folder.what), StoreFullError)

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


def _step(handle: lmdb.Environment) -> bool:
    """Make a transaction that changes nothing, and return whether there was room for it.

    What a transaction frees is room for the next but one (the previous state is kept whole), so that in a full file
    system the write that follows a removal would fail, and go on to fail.
    """
    try:
        with handle.begin(write=True) as transaction:
            transaction.put(NO_KEY, b"")
            transaction.delete(NO_KEY)
    except lmdb.Error:
        return False
    return True


def _passes(error: Exception) -> bool:
    """Return whether the same opening may succeed a moment later.

    A dropped environment of ours may be closing, in another thread; another process may let the database grow between
    the opening and our first look into it.
    """
    return is_open_twice(error) or isinstance(error, lmdb.MapResizedError | lmdb.ReadersFullError)


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
