"""A folder with an LMDB database: read by many processes from one copy in memory, written by each in turn."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from zarrstream.errors import StoreOptionError
from zarrstream.mappings.base import ByteMapping, checked_key, contiguous, level, pairs
from zarrstream.mappings.lmdb import layout as keys
from zarrstream.mappings.lmdb import listing
from zarrstream.mappings.lmdb.environment import Durability
from zarrstream.mappings.lmdb.folder import Folder
from zarrstream.mappings.lmdb.layout import value_start
from zarrstream.mappings.lmdb.session import Share

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterable, Iterator, Mapping

    from zarrstream.mappings.lmdb.environment import Transaction

GIB = 1 << 30
_SMALLEST_MAP = 1 << 16


class LMDBMapping(ByteMapping):
    """Bytes under string keys in a folder with an LMDB database, in the layout of zarr v2's ``LMDBStore``.

    Parameters
    ----------
    path : str or os.PathLike
        The folder. The first write makes it, in a folder that must exist. Opening and reading make nothing: a folder
        that is not there, or has no ``data.mdb``, reads as empty.
    durability : {"normal", "full", "off"}, optional
        What an acknowledged write survives:

        * ``"normal"``: the kill of the process. After a power loss or a crash of the system the database is whole, but
          the last write may be missing. Every write waits once for the disk.
        * ``"full"``: power loss as well; every write waits twice.
        * ``"off"``: the kill of the process; a power loss may leave the database unreadable. No write waits.

        Where mappings of one process differ on one folder, the strictest holds for all.
    map_size : int, optional
        How many bytes of address space are taken at first; the map doubles whenever it is full.

    Raises
    ------
    StoreOptionError
        A path that is no folder name, or an unknown durability or map_size.

    Notes
    -----
    **Threads**: any number. **Processes**: any number on one machine. Readers block nobody and are blocked by nobody;
    writers take turns, without a time limit. Not for a network file system, and not for containers that have different
    process ids but one folder: LMDB tells dead readers by their process id.

    **Copies**: values leave as ``bytes``. The map itself is shared: readers in several processes use the same memory.

    **One environment per process and folder**: all mappings share it, and the last to be closed, or dropped, closes it.
    When the map grows, and before a fork, running calls of this process end first. No environment is carried through a
    fork. Code other than zarrstream must not have the same folder open in the same process.

    **Atomicity**: each call is one transaction, `update_many`, `read_many`, `setdefault`, `pop` and `clear_under`
    included; no reader sees half a value. Keys are listed in pages of 1024, each of one version, so that no transaction
    stays open: keys written meanwhile may or may not be seen.

    **A killed process** leaves the database whole, in whichever moment; what it held is given free by the next who
    opens or writes. (LMDB's locks are robust on Linux. Where the system has none such, on macOS for one, the death of a
    writer in the midst of a write may block the others until all have closed the folder.)

    **A lost folder**: once it has been seen, a database that vanishes is `StoreUnavailableError`, here and in every
    pickled copy; never "empty". `close` forgets what was seen. A value may still be read for a hundredth of a second
    after the place was removed. A database that another one replaces is opened anew.

    **Pickling**: to path and options; a copy reconnects. **Size**: values under 4 GiB; keys of any length. Removed
    values leave room that is used again; the file never shrinks.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability = "normal", map_size: int = GIB) -> None:
        if durability not in get_args(Durability):
            raise StoreOptionError(f"durability is 'full', 'normal' or 'off', not {durability!r}")
        where = _absolute(path)
        self._folder = Folder(where, f"the LMDB database {where!r}")
        self._share = Share(self._folder, durability=durability, map_size=checked_map_size(map_size), seen=False)

    @property
    def path(self) -> Path:
        """The absolute path of the folder, links resolved."""
        return Path(self._folder.path)

    @property
    def place(self) -> str:
        """``lmdb:///`` and the absolute path."""
        return f"lmdb:///{self.path.as_posix()}"

    @property
    def lock_path(self) -> str:
        """A file in the folder."""
        return f"{self._folder.path}/zarrstream-cache.lock"

    def __repr__(self) -> str:
        share = self._share
        durability = "" if share.durability == "normal" else f", durability={share.durability!r}"
        map_size = "" if share.map_size == GIB else f", map_size={share.map_size!r}"
        return f"{type(self).__name__}({self._folder.path!r}{durability}{map_size})"

    def __reduce__(self) -> tuple[Any, ...]:
        share = self._share
        make = partial(type(self), durability=share.durability, map_size=share.map_size)
        return make, (self._folder.path,), share.seen

    def __setstate__(self, seen: bool) -> None:  # noqa: FBT001  # pickle's own way to call it
        # A worker to which the folder's disk is not mounted must say so, and not read fill values.
        self._share.seen = seen

    # -- values -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        name = _name(key)
        if not keys.is_long(name):
            value = self._share.get(name)
            if value is not None:
                return value
        return self.read(key)

    def __setitem__(self, key: str, value: Buffer) -> None:
        name = _name(key)
        content = keys.stored_value(key, name, contiguous(value))
        self._share.call(lambda transaction: transaction.put(name, content), write=True, create=True)

    def __delitem__(self, key: str) -> None:
        name = _name(key)
        if not self._share.call(lambda transaction: transaction.delete(name), write=True):
            raise KeyError(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of a value, copying no more. See `ByteMapping.read`."""
        name = _name(key)
        value = self._share.call(lambda transaction: _copied(transaction, name, slice(start, stop)))
        if value is None:
            raise KeyError(key)
        return value

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there, from one version. See `ByteMapping.read_many`."""
        names = {key: _name(key) for key in keys}

        def copy(transaction: Transaction[memoryview]) -> dict[str, bytes]:
            found = ((key, _copied(transaction, name, slice(None))) for key, name in names.items())
            return {key: value for key, value in found if value is not None}

        return self._share.call(copy) or {}

    def size(self, key: str) -> int:
        """Return the length of a value in bytes, without copying it. See `ByteMapping.size`."""
        name = _name(key)

        def measure(transaction: Transaction[memoryview]) -> int | None:
            content = transaction.get(name)
            return None if content is None else len(content) - keys.value_start(name, content)

        length = self._share.call(measure)
        if length is None:
            raise KeyError(key)
        return length

    def size_many(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the lengths of the values of those keys that are there, from one version."""
        names = {key: _name(key) for key in keys}

        def measure(transaction: Transaction[memoryview]) -> dict[str, int]:
            found = ((key, name, transaction.get(name)) for key, name in names.items())
            return {
                key: len(content) - value_start(name, content) for key, name, content in found if content is not None
            }

        return self._share.call(measure) or {}

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        name = _name(key)
        self._share.call(lambda transaction: transaction.delete(name), write=True)

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic."""
        name = _name(key)
        content = keys.stored_value(key, name, contiguous(default))

        def insert(transaction: Transaction[memoryview]) -> bytes | None:
            transaction.put(name, content, overwrite=False)
            return _copied(transaction, name, slice(None))

        return cast("bytes", self._share.call(insert, write=True, create=True))

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given. Atomic."""
        name = _name(key)

        def take(transaction: Transaction[memoryview]) -> bytes | None:
            value = _copied(transaction, name, slice(None))
            transaction.delete(name)
            return value

        value = self._share.call(take, write=True)
        if value is not None:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values in one transaction: all of them or none. See `ByteMapping.update_many`."""
        # Taken whole before the transaction begins: what computes them is not ours, and may be slow, or fork. And each
        # key once: a value that is replaced within its transaction would leave a gap at the end of the file.
        values: dict[bytes, Buffer] = {}
        for key, value in pairs(items):
            name = _name(key)
            values[name] = keys.stored_value(key, name, contiguous(value))

        def insert(transaction: Transaction[memoryview]) -> None:
            for name, content in values.items():
                transaction.put(name, content)

        if values:
            self._share.call(insert, write=True, create=True)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        name = _name(key)

        def look(transaction: Transaction[memoryview]) -> bool:
            with transaction.cursor() as cursor:
                return bool(cursor.set_range(name)) and bytes(cursor.key()) == name

        return bool(self._share.call(look))

    def __iter__(self) -> Iterator[str]:
        return self.keys_under("")

    def __len__(self) -> int:
        return self._share.call(lambda transaction: int(transaction.stat()["entries"])) or 0

    def __bool__(self) -> bool:
        return len(self) > 0

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``. Reads pages of 1024 keys, each in a transaction of its own."""
        head, after = _head(prefix), None
        while True:
            found = self._share.call(partial(listing.page, head=head, after=after)) or []
            for key, _ in found:
                if key is not None:
                    yield keys.text(key, self._folder.path)
            if len(found) < listing.KEYS_AT_ONCE:
                return
            after = found[-1][1]

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``, without visiting what is beneath them."""
        names = self._share.call(partial(listing.children, head=_head(level(path)))) or []
        # The key "a" and the level "a/" are one name, but need not be neighbours: "a!" lies between them.
        return iter([keys.text(name, self._folder.path) for name in dict.fromkeys(names) if name])

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key) in one transaction."""
        self._share.call(partial(listing.clear, head=_head(level(path))), write=True)

    def close(self) -> None:
        """Leave the environment; the last mapping of the process closes it, as soon as running calls return."""
        self._share.close()


def checked_map_size(map_size: object) -> int:
    """Return ``map_size`` if it is one; `StoreOptionError` otherwise."""
    if type(map_size) is not int or map_size < _SMALLEST_MAP:
        raise StoreOptionError(f"map_size is a number of bytes, {_SMALLEST_MAP} or more, not {map_size!r}")
    return map_size


def _name(key: object) -> bytes:
    """Return the name under which a key is stored, quickly where nothing is special about it."""
    if type(key) is str and 0 < len(key) <= keys.LIMIT and key.isascii() and "\0" not in key:
        return key.encode()
    return keys.stored_name(key)


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise StoreOptionError(f"an LMDB store is a folder, and {name!r} names none")
    return os.path.realpath(name)


def _head(prefix: str) -> bytes:
    """Return what the UTF-8 of keys under a prefix begins with."""
    return checked_key(prefix).encode()


def _copied(transaction: Transaction[memoryview], name: bytes, wanted: slice) -> bytes | None:
    content = transaction.get(name)
    return None if content is None else bytes(content[keys.value_start(name, content) :][wanted])
