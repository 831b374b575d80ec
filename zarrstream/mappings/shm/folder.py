"""Where tables in shared memory lie: a folder per user in the memory file system, and in it one per table."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
import threading
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zarrstream.errors import StoreAccessError, StoreError, StoreOptionError
from zarrstream.mappings.lmdb.errors import translated
from zarrstream.mappings.lmdb.folder import Folder
from zarrstream.mappings.shm.owners import Ownership, living_and_dead

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = "/dev/shm"  # noqa: S108  # the memory file system; what we make in it is checked to be ours
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._\-]{0,99}")


def checked_name(name: object) -> str:
    """Return ``name`` if it can name a table.

    Raises
    ------
    StoreOptionError
        It is something else than 1 to 100 letters of ASCII, digits, ``.``, ``_`` and ``-``, or begins with a sign.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise StoreOptionError(
        f"a table in shared memory is named by 1 to 100 letters (A to Z), digits, '.', '_' and '-', with a letter, "
        f"digit or '_' at the front; {name!r} is no such name"
    )


def memory() -> str:
    """Return the folder of the memory file system; where there is none, that of temporary files, with a warning."""
    if os.path.isdir(MEMORY) and os.access(MEMORY, os.W_OK | os.X_OK):  # noqa: PTH112  # text, as all paths here
        return MEMORY
    folder = tempfile.gettempdir()
    warnings.warn(
        f"this system has no memory file system at {MEMORY} that this process may write to: tables in shared memory "
        f"are kept in {folder}, which may be slower, and may outlive the machine's running",
        UserWarning,
        stacklevel=4,
    )
    return folder


class TableFolder(Folder):
    """The folder of one table.

    Parameters
    ----------
    name : str
        The table's name.

    Raises
    ------
    StoreOptionError
        ``name`` is none.
    """

    mode = 0o600

    def __init__(self, name: str) -> None:
        name = checked_name(name)
        self.home = f"{memory()}/zarrstream-{os.geteuid()}"
        super().__init__(f"{self.home}/{name}", f"the table {name!r} in shared memory ('{self.home}/{name}')")

    @contextmanager
    def entered(self, *, create: bool) -> Iterator[None]:
        """Hold the user's folder; a table whose owners have all died is removed first."""
        with self.locked(create=create) as there:
            if there:
                self._sweep()
            yield

    def make(self) -> None:
        """Make the folder, for this user alone."""
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)  # noqa: PTH102

    def left(self) -> None:
        """Look whether the owners are alive, as whoever closes a table does."""
        with self.locked(create=False) as there:
            if there:
                self._sweep()

    def take(self, ownership: Ownership) -> None:
        """Make the table's folder, and own it."""
        try:
            with self.locked(create=True):
                self._sweep()
                self.make()
                ownership.take(self.path)
        except StoreError:
            raise
        except OSError as error:
            raise translated(error, self.home, self.what) from error

    def release(self, ownership: Ownership) -> None:
        """Own it no longer; the last owner removes it."""
        with self.locked(create=False) as there:
            if ownership.drop() and there and not living_and_dead(self.path)[0]:
                self.remove()

    def remove(self) -> None:
        """Remove the table. In `locked` only."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/data.mdb")  # noqa: PTH108  # first: it is by this that others see that it is gone
        shutil.rmtree(self.path, ignore_errors=True)

    def _sweep(self) -> None:
        living, dead = living_and_dead(self.path)
        if dead and not living:
            self.remove()
        for path in dead:
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108

    @contextmanager
    def locked(self, *, create: bool) -> Iterator[bool]:
        """Hold the user's folder against other threads and processes; yield whether it is there.

        Whoever leaves it empty removes it.
        """
        with _turn:
            if self.home in _held:  # a finalizer that runs in the midst of a call of its own thread
                yield True
                return
            try:
                there = self._lock(create=create)
                if there:
                    _held.add(self.home)
                yield there
            except StoreError:
                raise
            except OSError as error:
                raise translated(error, self.home, self.what) from error
            finally:
                # The lock first of all: what a signal handler raises after the next call may take the rest away.
                # Said explicitly: a process that was forked at this moment has the descriptor, too.
                if self.home in _descriptors:
                    self._leave()

    def _leave(self) -> None:
        """Remove the folder if it is empty, and give the lock back, whatever is raised meanwhile."""
        try:
            if self.home in _held:  # otherwise the wait for it was interrupted, and it is another's
                _held.discard(self.home)
                with suppress(OSError):  # there are tables in it
                    os.rmdir(self.home)  # noqa: PTH106
        finally:
            self._unlock()

    def _lock(self, *, create: bool) -> bool:
        while True:
            try:
                # Kept at once, by its place: whatever is raised from here on, `locked` finds it.
                _descriptors[self.home] = os.open(
                    self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                )
            except FileNotFoundError:
                if not create:
                    return False
                with suppress(FileExistsError):
                    os.mkdir(self.home, 0o700)  # noqa: PTH102
                continue
            except NotADirectoryError as error:
                raise self._not_ours() from error
            except OSError as error:
                if error.errno == errno.ELOOP:  # a symbolic link
                    raise self._not_ours() from error
                raise
            found = os.fstat(_descriptors[self.home])
            ours = found.st_uid == os.geteuid() and not found.st_mode & 0o077
            if ours:
                fcntl.flock(_descriptors[self.home], fcntl.LOCK_EX)
                if _is_at(self.home, found):
                    return True
            self._unlock()
            if not ours:
                raise self._not_ours()
            # Otherwise, who held it before us removed it.

    def _unlock(self) -> None:
        if self.home in _descriptors:
            fcntl.flock(_descriptors[self.home], fcntl.LOCK_UN)
            os.close(_descriptors.pop(self.home))

    def _not_ours(self) -> StoreAccessError:
        return StoreAccessError(
            f"'{self.home}', where this user's tables in shared memory lie, is not a folder that belongs to this user "
            f"alone (mode 0700): whoever made it could read or change the tables; remove it"
        )


def _is_at(path: str, found: os.stat_result) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)


_turn = threading.RLock()
_held: set[str] = set()
_descriptors: dict[str, int] = {}  # the locked folder's, by its path


def _after_fork_in_child() -> None:
    # Not taken before the fork: other threads take it while they hold what a fork waits for. Here it is made anew.
    global _turn  # noqa: PLW0603
    _turn = threading.RLock()
    for descriptor in _descriptors.values():
        os.close(descriptor)
    _descriptors.clear()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
