"""`ChunkCache`: values of slower stores, kept in a mapping of this machine, bounded over processes and restarts."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from zarrstream.errors import StoreOptionError, StoreUnavailableError
from zarrstream.mappings.base import ByteMapping
from zarrstream.stores.limits import is_number
from zarrstream.stores.wrappers.cache_lock import CacheLock
from zarrstream.stores.wrappers.cache_records import DamagedError, Records, entry_name

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("zarrstream")
_NOTED_SECONDS = 1.0  # after which other processes hear of what was used here


class Ticket(NamedTuple):
    """What a miss has seen: a value that is fetched with it is kept only if nothing has changed since.

    Attributes
    ----------
    entry : str
        Where the value would be kept.
    epoch : int or None
        The cache's epoch: see `zarrstream.stores.wrappers.cache_lock.CacheLock`.
    changes : tuple of int
        How often the key, and each level above it, had changed.
    """

    entry: str
    epoch: int | None
    changes: tuple[int, ...]


class ChunkCache:
    """A cache that processes share, in front of any number of stores.

    Parameters
    ----------
    mapping : ByteMapping
        Where the values are kept: a table in shared memory, a SQLite file, a folder with LMDB.
    max_bytes : int, optional
        How many bytes of values there may be, over all processes that use the mapping. What was used least recently
        goes first.

    Raises
    ------
    StoreOptionError
        A bound that is none, or a mapping that is no such place of this machine.

    Notes
    -----
    **Processes**: those of one user on one machine, in whatever containers, and with whatever environment; on Windows
    one process. They take turns by a lock in the cache's own place: beside the SQLite file, in the table's folder. What
    one process uses, others hear of within a second.

    **Failures** of the cache, of its lock and of what it holds are misses, and logged once: the store is read and
    written without it. A change that the cache cannot be told of ends its *epoch*: nothing that was kept before is
    found any more, by any process. Only where that cannot be either (the cache has become read-only as a whole) is a
    change refused, since others would read what it replaces.

    **Pickling**: as the mapping.
    """

    def __init__(self, mapping: ByteMapping, *, max_bytes: int = 1 << 30) -> None:
        if not isinstance(mapping, ByteMapping):
            raise StoreOptionError(f"a cache is kept in a mapping of zarrstream's, not in {mapping!r}")
        if mapping.lock_path is None:
            raise StoreOptionError(
                f"a cache is kept where processes of this machine share it: in a table in shared memory (shm://NAME), "
                f"a SQLite file (sqlite:///cache.db) or an LMDB folder (lmdb:///folder), not in {mapping!r}"
            )
        if not is_number(max_bytes, int, least=1):
            raise StoreOptionError(f"max_bytes is a number of bytes, 1 or more, not {max_bytes!r}")
        self.mapping = mapping
        self.max_bytes = max_bytes
        self._lock = CacheLock(mapping.lock_path)
        self._used: dict[str, int] = {}
        self._noted = time.monotonic()
        self._failed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.mapping, self.max_bytes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mapping!r}, max_bytes={self.max_bytes})"

    @property
    def _records(self) -> Records:
        return Records(self.mapping, self.max_bytes)

    def close(self) -> None:
        """Say what was used, and close the mapping; any later use opens it again."""
        with self._done_without():
            if self._used:
                self._lock.run(self._note)
        with self._done_without():
            self.mapping.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, place: str, key: str, part: str) -> tuple[memoryview | None, Ticket | None]:
        """Return what is kept of a value, or None and a ticket, with which `keep` takes what is fetched.

        Parameters
        ----------
        place, key : str
            Whose value.
        part : str
            Which range of it.
        """
        with self._done_without():
            epoch = self._lock.epoch()
            if epoch is None:
                self._begin()
                epoch = self._lock.epoch()
            changes = self._records.changes(place, key)
            entry = f"{entry_name(place, key, epoch, changes[1:])}/{part}"
            value = self._records.value(entry)
            if value is None:
                return None, None if epoch is None else Ticket(entry, epoch, changes)
            self._used[entry] = time.time_ns()
            if time.monotonic() - self._noted > _NOTED_SECONDS:
                self._lock.run(self._note, wait=False)
            return value, None
        return None, None

    def keep(self, place: str, key: str, ticket: Ticket, value: memoryview) -> None:
        """Keep a value that was fetched after its ticket was given, if nothing has changed since."""
        if len(value) <= self.max_bytes:
            with self._done_without():
                self._lock.run(partial(self._keep, place, key, ticket, value))

    def _keep(self, place: str, key: str, ticket: Ticket, value: memoryview) -> None:
        records = self._records
        if self._lock.epoch() != ticket.epoch or records.changes(place, key) != ticket.changes:
            return
        if not records.is_changing(place, key, ticket.epoch):
            records.keep(ticket.entry, value, self._used)

    def _begin(self) -> None:
        """Make the lock's file, with which the first epoch begins."""
        try:
            self._lock.begin_epoch()
        except FileNotFoundError:  # the first value makes the folder that both lie in
            self.mapping.setdefault("total", b"0")
            self._lock.begin_epoch()

    def _note(self) -> None:
        self._noted = time.monotonic()
        used, self._used = self._used, {}
        self._records.note(dict(used))  # another thread may be about to add to the one that was taken

    # -- changes -------------------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self, place: str, path: str, *, beneath: bool = False) -> Iterator[None]:
        """Forget a key, or all that is beneath a path, around a change of it.

        Nothing of it is kept while it changes, and no value that was fetched before the end is kept afterwards. Where
        the process is killed within, others find out that it is gone.

        Raises
        ------
        StoreUnavailableError
            The cache can neither be told of the change nor be ended.
        """
        marked = self._told(place, path, beneath, +1)
        try:
            yield
        finally:
            # Where the mark was not made, the end forgets without it; an epoch has ended, and ends once more, since
            # who has asked in the midst of the change may have the old value in hand.
            if not marked or not self._told(place, path, beneath, -1):
                self._end_epoch()

    def _told(self, place: str, path: str, beneath: bool, step: int) -> bool:  # noqa: FBT001  # inner step
        """Forget and mark under the lock; return False where the cache was ended instead."""

        def tell() -> bool:
            self._records.forget(place, path, beneath=beneath, epoch=self._lock.epoch())
            self._records.mark(place, path, beneath=beneath, step=step)
            return True

        try:
            if self._lock.epoch() is None:
                self._begin()
            return bool(self._lock.run(tell))
        except Exception as error:  # noqa: BLE001  # whatever fails in a helper does not stop the store
            self._end_epoch()
            self._done(error)
            return False

    def _end_epoch(self) -> None:
        try:
            self._lock.end_epoch()
        except OSError as error:
            raise StoreUnavailableError(
                f"the cache {self.mapping.place} cannot be told of a change, since it has become read-only, and its "
                f"processes would go on to read what is replaced: make it writable, or remove it together with "
                f"{self._lock.path!r} (nothing but copies is in it)"
            ) from error

    # -- failures ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _done_without(self) -> Iterator[None]:
        """Take a failure of the cache for a miss."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever fails in a helper does not stop the store
            self._done(error)

    def _done(self, error: Exception) -> None:
        if isinstance(error, DamagedError):
            with suppress(Exception):
                # In this order: without its counter, what was kept long ago would be found again.
                self._lock.end_epoch()
                self.mapping.discard(error.name)
        if not self._failed:
            self._failed = True
            logger.warning("the cache %s fails, and is done without: %s", self.mapping.place, error)


def _restore(mapping: ByteMapping, max_bytes: int) -> ChunkCache:
    return ChunkCache(mapping, max_bytes=max_bytes)
