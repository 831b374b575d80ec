"""`ChunkCache`: values of slower stores, kept in a mapping of this machine, bounded over processes and restarts."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zarrstream.errors import StoreError, StoreOptionError
from zarrstream.mappings.base import ByteMapping
from zarrstream.stores.limits import is_number

try:
    import fcntl
except ImportError:  # Windows, where a cache is for one process
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger("zarrstream")
_ENTRY = struct.Struct(">QQ")  # when it was last used, in ns; how many bytes it has
_SHARDS = 256  # counters of changes per place: a change of one key makes misses under way forget 1 of 256
_SPARE = 16  # an eviction makes room for a 16th of the whole, so that the next is not due at once
_NOTED_SECONDS = 1.0  # after which other processes hear of what was used here


class Ticket(NamedTuple):
    """What a miss has seen: a value that is fetched with it is kept only if nothing has changed since.

    Attributes
    ----------
    entry : str
        Where the value would be kept.
    changes : tuple of int
        How often the place, and this part of it, had changed.
    """

    entry: str
    changes: tuple[int, int]


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
        A bound that is none, or what is no mapping of this package.

    Notes
    -----
    **Processes**: those of one user on one machine, and on Windows one process; a lock in the folder for temporary
    files lets one at a time change what is kept. What one process uses, others hear of within a second. **Failures**
    of the cache are misses, and logged once. **Pickling**: as the mapping.
    """

    def __init__(self, mapping: ByteMapping, *, max_bytes: int = 1 << 30) -> None:
        if not isinstance(mapping, ByteMapping):
            raise StoreOptionError(f"a cache is kept in a mapping of zarrstream's, not in {mapping!r}")
        if not is_number(max_bytes, int, least=1):
            raise StoreOptionError(f"max_bytes is a number of bytes, 1 or more, not {max_bytes!r}")
        self.mapping = mapping
        self.max_bytes = max_bytes
        self._lock = _MachineLock(str(mapping.place))
        self._used: dict[str, int] = {}
        self._noted = time.monotonic()
        self._failed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.mapping, self.max_bytes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mapping!r}, max_bytes={self.max_bytes})"

    def close(self) -> None:
        """Say what was used, and close the mapping; any later use opens it again."""
        with self._misses():
            self._note()
        self.mapping.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, place: str, key: str, part: str) -> tuple[Any | None, Ticket | None]:
        """Return what is kept of a value, or None and a ticket, with which `keep` takes what is fetched.

        Parameters
        ----------
        place, key : str
            Whose value.
        part : str
            Which range of it.
        """
        with self._misses():
            changes = self._changes(place, key)
            ticket = Ticket(f"{_entry(place, changes[0], key)}/{part}", changes)
            value = self.mapping.get(f"v/{ticket.entry}")
            if value is not None:
                self._used[ticket.entry] = time.time_ns()
                if time.monotonic() - self._noted > _NOTED_SECONDS:
                    self._note(wait=False)
            return value, ticket
        return None, None

    def keep(self, place: str, key: str, ticket: Ticket, value: memoryview) -> None:
        """Keep a value that was fetched after its ticket was given, if nothing has changed since."""
        nbytes = len(value)
        if nbytes > self.max_bytes:
            return
        with self._misses(), self._lock.held():
            entry = ticket.entry
            if self._changes(place, key) != ticket.changes or self._is_changing(place, key):
                return
            if f"v/{entry}" in self.mapping:
                return
            total = self._total() + nbytes
            if total > self.max_bytes:
                total = self._evict(nbytes) + nbytes
            # In this order: what a killed process leaves is counted, whether or not its value is there.
            self.mapping["total"] = b"%d" % total
            self.mapping[f"i/{entry}"] = _ENTRY.pack(time.time_ns(), nbytes)
            self.mapping[f"v/{entry}"] = value

    # -- changes -------------------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self, place: str, key: str | None) -> Iterator[None]:
        """Forget a key, or the whole place, around a change of it.

        Nothing of it is kept while it changes, and no value that was fetched before the end is kept afterwards. Where
        the process is killed within, others find out that it is gone.
        """
        mark = f"w/{_digest(place)}" if key is None else f"w/{_digest(place, key)}"
        with self._lock.held():
            self._forget(place, key)
            self.mapping[mark] = self._marked(mark, +1)
        try:
            yield
        finally:
            with self._lock.held():
                self._forget(place, key)
                left = self._marked(mark, -1)
                if left:
                    self.mapping[mark] = left
                else:
                    self.mapping.discard(mark)

    def _forget(self, place: str, key: str | None) -> None:
        counter = f"g/{_digest(place)}" if key is None else f"g/{_shard(place, key)}"
        self.mapping[counter] = b"%d" % (self._number(counter) + 1)
        if key is None:
            return  # the entries of a place have its number in their names: nobody finds them any more
        entry = _entry(place, self._number(f"g/{_digest(place)}"), key)
        for part in list(self.mapping.children(f"i/{entry}")):
            self._drop(f"{entry}/{part}")

    def _marked(self, mark: str, step: int) -> bytes:
        """Return who changes something, this process one time more or less; the dead are left out."""
        counts = self._writers(mark)
        counts[os.getpid()] = counts.get(os.getpid(), 0) + step
        return b" ".join(b"%d:%d" % each for each in counts.items() if each[1] > 0)

    def _writers(self, mark: str) -> dict[int, int]:
        text = bytes(self.mapping.get(mark) or b"").decode()
        counts = {int(process): int(count) for process, count in (word.split(":") for word in text.split())}
        return {process: count for process, count in counts.items() if _is_alive(process)}

    def _is_changing(self, place: str, key: str) -> bool:
        for mark, counter in (
            (f"w/{_digest(place)}", f"g/{_digest(place)}"),
            (f"w/{_digest(place, key)}", f"g/{_shard(place, key)}"),
        ):
            if mark not in self.mapping:
                continue
            if not self._writers(mark):  # killed in the midst of it: what was fetched meanwhile is not to be believed
                self.mapping.discard(mark)
                self.mapping[counter] = b"%d" % (self._number(counter) + 1)
            return True
        return False

    def _changes(self, place: str, key: str) -> tuple[int, int]:
        return self._number(f"g/{_digest(place)}"), self._number(f"g/{_shard(place, key)}")

    def _number(self, name: str) -> int:
        return int(self.mapping.get(name) or 0)

    # -- room ----------------------------------------------------------------------------------------------------------

    def _total(self) -> int:
        known = self.mapping.get("total")
        return int(known) if known is not None else sum(size for _, size in self._entries().values())

    def _evict(self, nbytes: int) -> int:
        """Make room for so many bytes, and some to spare; return how many there are then."""
        self._note()
        entries = self._entries()
        total = sum(size for _, size in entries.values())
        most = max(0, self.max_bytes - max(nbytes, self.max_bytes // _SPARE))
        for entry in sorted(entries, key=lambda entry: entries[entry][0]):
            if total <= most:
                break
            total -= entries[entry][1]
            self._drop(entry, counted=False)
        return total

    def _drop(self, entry: str, *, counted: bool = True) -> None:
        packed = self.mapping.get(f"i/{entry}")
        self.mapping.discard(f"v/{entry}")
        self.mapping.discard(f"i/{entry}")
        if packed is not None and counted:
            self.mapping["total"] = b"%d" % max(0, self._total() - _ENTRY.unpack(packed)[1])

    def _entries(self) -> dict[str, tuple[int, int]]:
        """Return when each entry was last used, and its size."""
        found: Mapping[str, Any] = self.mapping.read_many(list(self.mapping.keys_under("i/")))
        return {name.removeprefix("i/"): _ENTRY.unpack(packed) for name, packed in found.items()}

    def _note(self, *, wait: bool = True) -> None:
        """Write down what was used here, now or, without waiting for the lock, another time.

        Of what somebody drops meanwhile, nothing may come back.
        """
        self._noted = time.monotonic()
        with self._lock.held(wait=wait) as held:
            if not held:
                return
            used, self._used = self._used, {}
            used = dict(used)  # another thread may be about to add to the one that was taken
            known = self.mapping.read_many([f"i/{entry}" for entry in used])
            self.mapping.update_many(
                (name, _ENTRY.pack(used[name.removeprefix("i/")], _ENTRY.unpack(packed)[1]))
                for name, packed in known.items()
            )

    @contextmanager
    def _misses(self) -> Iterator[None]:
        """Take a failure of the cache for a miss."""
        try:
            yield
        except StoreError as error:
            if not self._failed:
                self._failed = True
                logger.warning("the cache %s fails, and is done without: %s", self.mapping.place, error)


class _MachineLock:
    """One holder at a time among the threads and processes of this machine and user."""

    def __init__(self, name: str) -> None:
        import tempfile  # it takes 5 ms, and few have a cache

        self._path = Path(tempfile.gettempdir()) / f"zarrstream-cache-{_digest(str(Path.home()), name)}"
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._threads = threading.RLock()
        self._depth = 0
        self._file = -1

    @contextmanager
    def held(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold it, as soon as nobody else does; without waiting, say whether it is held."""
        if self._process != os.getpid():
            self._begin()  # a fork while another thread held it, which the child does not have
        if not self._threads.acquire(blocking=wait):
            yield False
            return
        try:
            if not self._depth and not self._take(wait=wait):
                yield False
                return
            self._depth += 1
            try:
                yield True
            finally:
                self._depth -= 1
                if not self._depth:
                    os.close(self._file)
        finally:
            self._threads.release()

    def _take(self, *, wait: bool) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._file = file
        return True


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def _shard(place: str, key: str) -> str:
    return f"{_digest(place)}/{int(_digest(place, key)[:8], 16) % _SHARDS}"


def _entry(place: str, changes: int, key: str) -> str:
    return _digest(place, str(changes), key)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _restore(mapping: ByteMapping, max_bytes: int) -> ChunkCache:
    return ChunkCache(mapping, max_bytes=max_bytes)
