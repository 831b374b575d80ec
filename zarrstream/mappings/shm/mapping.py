"""A table in the memory of the machine, seen by every process of the user that names it."""

from __future__ import annotations

import os
import platform
import weakref
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from zarrstream.mappings.lmdb import LMDBMapping
from zarrstream.mappings.lmdb.mapping import GIB, checked_map_size
from zarrstream.mappings.lmdb.session import Share
from zarrstream.mappings.shm.folder import TableFolder
from zarrstream.mappings.shm.owners import Ownership

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class SharedMemoryMapping(LMDBMapping):
    """Bytes under string keys in the memory of the machine: a named table, as ETS has them.

    Parameters
    ----------
    name : str
        The table's name: 1 to 100 letters of ASCII, digits, ``.``, ``_`` and ``-``. Each user has names of his own.
    owner : bool, optional
        Whether this process owns the table: it makes the empty table at once, and the last owner to close it, or to
        end, removes it. A table that never had an owner lives until `destroy`, or until the machine stops.
    map_size : int, optional
        How many bytes of address space are taken at first; the map doubles whenever it is full. Memory is taken for
        what is stored only.

    Raises
    ------
    StoreOptionError
        A name that is none, or an unknown map_size.
    StoreAccessError
        The folder of this user's tables is not his alone.

    Warns
    -----
    UserWarning
        The system has no memory file system: the table is in the folder of temporary files.

    Notes
    -----
    An LMDB database in ``/dev/shm/zarrstream-UID/NAME`` (mode 0700). What `LMDBMapping` says of threads, processes,
    copies, atomicity, killed processes and sizes holds here.

    **Durability**: a write survives the kill of its process, and of all processes; nothing survives the machine's.

    **Owners**: a copy that was pickled, or inherited through a fork, is no owner. The table goes when the last owner
    closes its mapping, drops it, or ends. Where the last one was killed, whoever opens or closes the table next
    removes it. Mappings that still use a removed table get `StoreUnavailableError`, until they are closed.

    **A full memory file system** is `StoreFullError`, and nothing of the failed write is visible.

    **Pickling**: to the name and options, for processes of this user on this machine.
    """

    def __init__(self, name: str, *, owner: bool = False, map_size: int = GIB) -> None:
        self._folder: TableFolder = TableFolder(name)
        self._name = name
        self._ownership = Ownership() if owner else None
        self._share = _TableShare(self._folder, self._ownership, map_size=checked_map_size(map_size))
        if self._ownership is not None:
            self._folder.take(self._ownership)
            weakref.finalize(self, self._folder.release, self._ownership)

    @property
    def name(self) -> str:
        """The table's name."""
        return self._name

    @property
    def owner(self) -> bool:
        """Whether this process is one of the table's owners."""
        return self._ownership is not None and self._ownership.is_ours

    @property
    def place(self) -> str:
        """``shm://NAME``, and which user's, on which machine, since which start of it."""
        return f"shm://{self._name}?{_machine()}"

    def __repr__(self) -> str:
        owner = ", owner=True" if self.owner else ""
        map_size = "" if self._share.map_size == GIB else f", map_size={self._share.map_size!r}"
        return f"{type(self).__name__}({self._name!r}{owner}{map_size})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), map_size=self._share.map_size), (self._name,), self._share.seen

    def close(self) -> None:
        """Leave the table; the last owner removes it."""
        super().close()
        if self._ownership is not None:
            self._folder.release(self._ownership)

    def destroy(self) -> None:
        """Remove the table, whoever uses it; the next write makes a new one."""
        environment = self._share.environment
        with environment.alone():
            environment.shut()
            with self._folder.locked(create=False) as there:
                if there:
                    self._folder.remove()
            self.close()


class _TableShare(Share):
    """A share that owns the table again, where it is an owner's, when it is used after a `close`."""

    def __init__(self, folder: TableFolder, ownership: Ownership | None, *, map_size: int) -> None:
        super().__init__(folder, durability="off", map_size=map_size, seen=False)
        self._folder = folder
        self._ownership = ownership

    def join(self, *, create: bool) -> bool:
        if self._ownership is not None and self._ownership.is_ours and not self.seen:
            self._folder.take(self._ownership)
        return super().join(create=create)


@lru_cache
def _machine() -> str:
    try:
        boot = _BOOT.read_text().strip()
    except OSError:  # not Linux
        boot = ""
    return f"user={os.geteuid()}&host={platform.node()}&boot={boot}"
