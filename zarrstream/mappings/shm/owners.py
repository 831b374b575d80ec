"""Who owns a table in shared memory: a locked file per owner, so that the system itself notices an owner's death."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from weakref import WeakSet

_PREFIX = "owner-"


class Ownership:
    """That this process is an owner of a table: not its children, nor whoever unpickles a copy.

    Attributes
    ----------
    is_ours : bool
        Whether this process may own the table.
    """

    def __init__(self) -> None:
        self.is_ours = True
        self._path = ""
        self._descriptor: int | None = None
        _every.add(self)

    def take(self, folder: str) -> None:
        """Own the table in a folder, unless that is so already. The caller holds the user's folder."""
        if not self.is_ours or (self._descriptor is not None and os.path.exists(self._path)):  # noqa: PTH110
            return
        self.drop()
        self._path = f"{folder}/{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def drop(self) -> bool:
        """Own the table no longer; return whether this process did. The caller holds the user's folder."""
        if self._descriptor is None:
            return False
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108  # text: no path is taken apart here
        os.close(self._descriptor)
        self._descriptor = None
        return True

    def disown(self) -> None:
        """Leave the table to the parent, in its child: a lock lasts for as long as anybody has its descriptor."""
        self.is_ours = False
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def living_and_dead(folder: str) -> tuple[list[str], list[str]]:
    """Return the files of a table's living owners, and of dead ones. The caller holds the user's folder."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(_PREFIX)]  # noqa: PTH208  # names are all we need
    except FileNotFoundError:
        return [], []
    living: list[str] = []
    dead: list[str] = []
    for name in names:
        path = f"{folder}/{name}"
        (living if _is_held(path) else dead).append(path)
    return living, dead


def _is_held(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


_every: WeakSet[Ownership] = WeakSet()


def _after_fork_in_child() -> None:
    for ownership in list(_every):
        ownership.disown()


os.register_at_fork(after_in_child=_after_fork_in_child)
