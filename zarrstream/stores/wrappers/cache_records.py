"""The records of a cache in its mapping: counters of changes, marks of writers, entries and their values."""

from __future__ import annotations

import os
import secrets
import struct
import time
import zlib
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from zarrstream.errors import StoreCorruptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarrstream.mappings.base import ByteMapping

_ENTRY = struct.Struct(">QQ")  # when it was last used, in ns; how many bytes it has
_SEAL = struct.Struct(">QII")  # behind each value: its length, its checksum, and a number that tells seals
_SIGN = 0x7A637331
_SHARDS = 256  # counters per place: a change makes misses under way forget 1 of 256
_TREES = struct.Struct(f">{_SHARDS}Q")
_SPARE = 16  # an eviction makes room for a 16th of the whole, so that the next is not due at once


class DamagedError(StoreCorruptError):
    """A record that holds what was never written to it. It does not leave the cache.

    Parameters
    ----------
    name : str
        The record.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"the record {name!r} is damaged")
        self.name = name


class Records:
    """What a cache keeps, by the names under which it does. Nothing here takes a lock.

    Parameters
    ----------
    mapping : ByteMapping
        Where.
    max_bytes : int
        How many bytes of values there may be.
    """

    def __init__(self, mapping: ByteMapping, max_bytes: int) -> None:
        self.mapping = mapping
        self.max_bytes = max_bytes

    # -- changes -------------------------------------------------------------------------------------------------------

    def changes(self, place: str, key: str) -> tuple[int, ...]:
        """Return how often this part of a place, and each level above the key, has changed."""
        trees = self._trees(place)
        return (self._number(_counter(place, key)), *(trees[_shard(level)] for level in _levels(key)))

    def forget(self, place: str, path: str, *, beneath: bool, epoch: int | None) -> None:
        """Drop what is kept of a key, or of everything beneath a path."""
        if beneath:
            # The entries of a level have its number in their names: nobody finds them any more.
            trees = list(self._trees(place))
            trees[_shard(path)] = _next(trees[_shard(path)])
            self.mapping[f"t/{_digest(place)}"] = _TREES.pack(*trees)
            return
        entry = entry_name(place, path, epoch, self.changes(place, path)[1:])
        counter = _counter(place, path)
        self.mapping[counter] = b"%d" % _next(self._number(counter))
        for part in list(self.mapping.children(f"i/{entry}")):
            self.drop(f"{entry}/{part}")

    def _trees(self, place: str) -> tuple[int, ...]:
        name = f"t/{_digest(place)}"
        packed = self.mapping.get(name)
        if packed is None:
            return (0,) * _SHARDS
        try:
            return _TREES.unpack(packed)
        except struct.error as error:
            raise DamagedError(name) from error

    def _number(self, name: str) -> int:
        text = self.mapping.get(name)
        try:
            return int(bytes(text)) if text is not None else 0
        except ValueError as error:
            raise DamagedError(name) from error

    # -- writers -------------------------------------------------------------------------------------------------------

    def mark(self, place: str, path: str, *, beneath: bool, step: int) -> None:
        """Say that this process changes a key, or what is beneath a path, or no longer; the dead are left out."""
        name = _mark(place, path, beneath=beneath)
        counts = self._writers(name)
        me = f"{os.getpid()}.{_pid_namespace()}"
        counts[me] = counts.get(me, 0) + step
        left = " ".join(f"{process}:{count}" for process, count in counts.items() if count > 0)
        if left:
            self.mapping[name] = left.encode()
        else:
            self.mapping.discard(name)

    def is_changing(self, place: str, key: str, epoch: int | None) -> bool:
        """Return whether a key, or a level above it, is being changed. What the dead have left is cleared away."""
        marks = {_mark(place, key, beneath=False): (key, False)}
        marks |= {_mark(place, level, beneath=True): (level, True) for level in _levels(key)}
        found = self.mapping.read_many(list(marks))
        for name in found:
            if not self._writers(name):  # killed in the midst of it: what was fetched meanwhile may be old
                path, beneath = marks[name]
                self.mapping.discard(name)
                self.forget(place, path, beneath=beneath, epoch=epoch)
        return bool(found)

    def _writers(self, name: str) -> dict[str, int]:
        text = self.mapping.get(name)
        if text is None:
            return {}
        try:
            words = [word.split(":") for word in bytes(text).decode().split()]
            counts = {process: int(count) for process, count in words}
            return {process: count for process, count in counts.items() if _is_alive(process)}
        except ValueError as error:
            raise DamagedError(name) from error

    # -- entries -------------------------------------------------------------------------------------------------------

    def value(self, entry: str) -> memoryview | None:
        """Return a kept value; None where there is none."""
        sealed = self.mapping.get(f"v/{entry}")
        if sealed is None:
            return None
        view = memoryview(sealed)
        content, seal = view[: -_SEAL.size], view[-_SEAL.size :]
        if len(seal) != _SEAL.size or _SEAL.unpack(seal) != _sealed(content):
            raise DamagedError(f"v/{entry}")
        return content

    def keep(self, entry: str, value: memoryview, used: dict[str, int]) -> None:
        """Keep a value, in the room that others have to leave for it; ``used`` is what this process has used."""
        if f"v/{entry}" in self.mapping:
            return
        nbytes = len(value) + _SEAL.size
        if nbytes > self.max_bytes:
            return
        total = self._total() + nbytes
        if total > self.max_bytes:
            total = self._evict(nbytes, used) + nbytes
        # In this order: what a killed process leaves is counted, whether or not its value is there.
        self.mapping["total"] = b"%d" % total
        self.mapping[f"i/{entry}"] = _ENTRY.pack(time.time_ns(), nbytes)
        self.mapping[f"v/{entry}"] = b"".join((value, _SEAL.pack(*_sealed(value))))

    def drop(self, entry: str, *, counted: bool = True) -> None:
        """Drop an entry."""
        size = _entry(self.mapping.get(f"i/{entry}"))[1]
        self.mapping.discard(f"v/{entry}")
        self.mapping.discard(f"i/{entry}")
        if size and counted:
            self.mapping["total"] = b"%d" % max(0, self._total() - size)

    def note(self, used: dict[str, int]) -> None:
        """Write down when entries were used, of those that are there still: nothing dropped comes back."""
        known = self.mapping.read_many([f"i/{entry}" for entry in used])
        self.mapping.update_many(
            (name, _ENTRY.pack(used[name.removeprefix("i/")], _entry(packed)[1])) for name, packed in known.items()
        )

    def _total(self) -> int:
        known = self.mapping.get("total")
        try:
            return int(bytes(known))  # type: ignore[arg-type]  # None is met below
        except (TypeError, ValueError):
            return sum(size for _, size in self._entries().values())

    def _evict(self, nbytes: int, used: dict[str, int]) -> int:
        """Make room for so many bytes, and some to spare; return how many there are then."""
        self.note(used)
        entries = self._entries()
        total = sum(size for _, size in entries.values())
        most = max(0, self.max_bytes - max(nbytes, self.max_bytes // _SPARE))
        for entry in sorted(entries, key=lambda entry: entries[entry][0]):
            if total <= most:
                break
            total -= entries[entry][1]
            self.drop(entry, counted=False)
        return total

    def _entries(self) -> dict[str, tuple[int, int]]:
        """Return when each entry was last used, and its size; a damaged one was never used."""
        found: Mapping[str, Any] = self.mapping.read_many(list(self.mapping.keys_under("i/")))
        return {name.removeprefix("i/"): _entry(packed) for name, packed in found.items()}


def entry_name(place: str, key: str, epoch: int | None, trees: tuple[int, ...]) -> str:
    """Return where the values of a key are kept, each range beneath it, for as long as nothing above it changes."""
    return _digest(place, str(epoch), *map(str, trees), key)


def _entry(packed: Any | None) -> tuple[int, int]:  # noqa: ANN401  # bytes, or a view of such
    return _ENTRY.unpack(packed) if packed is not None and len(packed) == _ENTRY.size else (0, 0)


def _sealed(content: memoryview) -> tuple[int, int, int]:
    return len(content), zlib.crc32(content), _SIGN


def _next(number: int) -> int:
    # Never a number that was there before, also where the counters are lost and begin anew.
    return (number + 1 + secrets.randbits(32)) % (1 << 63)


def _levels(path: str) -> list[str]:
    """Return the paths above a key, the root first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]


def _shard(path: str) -> int:
    return zlib.crc32(path.encode()) % _SHARDS


def _counter(place: str, key: str) -> str:
    return f"g/{_digest(place)}/{_shard(key)}"


def _mark(place: str, path: str, *, beneath: bool) -> str:
    return f"w/{_digest(place, path, 'beneath') if beneath else _digest(place, path)}"


@lru_cache(4096)
def _digest(*texts: str) -> str:
    return blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


@lru_cache(1)
def _pid_namespace() -> int:
    """Return what tells process ids of this container from those of another one."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  # no path is taken apart here
    except OSError:
        return 0


def _is_alive(process: str) -> bool:
    number, _, namespace = process.partition(".")
    if int(namespace) != _pid_namespace():
        return True  # nobody can tell from here
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
