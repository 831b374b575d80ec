"""One zip archive that can be rewritten: each key once in it, and the old version whole until the new one is."""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarrstream.errors import StoreOptionError
from zarrstream.mappings.base import ByteMapping, checked_key, contiguous, level, pairs
from zarrstream.mappings.zip.archive import release_archive, shared_archive

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterable, Iterator, Mapping

    from zarrstream.mappings.zip.view import View

_LONGEST_NAME = 0xFFFF  # bytes, by the format


def _key(key: object) -> str:
    return key if type(key) is str and key.isascii() and "\0" not in key else checked_key(key)


class ZipMapping(ByteMapping):
    """Bytes under string keys in one zip archive, which any zip tool and zarr's ``ZipStore`` can read.

    Values are pending until `flush` or `close` publishes them: a new archive is written beside the old one and takes
    its place. Whoever holds a mapping of the same path in this process sees pending values at once.

    Parameters
    ----------
    path : str or os.PathLike
        The archive. The first publication makes it; its folder must exist. Opening and reading make nothing: an
        archive that is not there reads as empty.

    Raises
    ------
    StoreOptionError
        A path that is no file name.

    Notes
    -----
    **Threads**: any number. Readers of published values wait for nobody; writers take turns.

    **Processes**: any number read, one writes. Its first write takes a lock, which `close` gives back and which dies
    with the process; a second writer gets `StoreUnavailableError`, which names the first. Readers see the old version
    until the new one is published, and then the new one.

    **Fork**: a child sees what its parent saw, the pending values as well, until the parent publishes; it never
    publishes them itself, and a write of its own is refused as any second writer's.

    **Atomicity**: each call is one step, `update_many`, `setdefault` and `pop` included, and so is publication: at
    every instant the path leads to the old archive or to the new one, whole.

    **Durability**: a write that returned survives nothing until it is published (``durable_on_write`` is False); what
    `flush` or `close` published survives the kill of the process and power loss. A mapping that is dropped, or that
    is still there when the interpreter or a worker of multiprocessing ends, is published then; after a kill or a bare
    ``os._exit`` the last published version is there.

    **Room**: pending values lie in a file without a name beside the archive, and publishing needs room for the new
    archive beside the old one: it copies what stays as it is, without decompressing it. Publish seldom.

    **Archives of others**: compressed entries are read, by decompressing the whole entry; entries that Python cannot
    decompress, or that are encrypted, are listed and copied, and reading them is an error. Of several entries of one
    name the last counts. Entries for folders are no keys, and a new version has none.

    **A lost archive**: once it has been seen, an archive that vanishes is `StoreUnavailableError`, here and in every
    pickled copy; never "empty". `close` forgets what was seen.

    **Pickling** publishes what is pending, so that the copy, which opens the path anew, sees it.
    """

    durable_on_write = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.fsdecode(path)
        if not name or "\0" in name or name.endswith("/"):
            raise StoreOptionError(f"a zip store is a file, and {name!r} names none")
        self._archive = shared_archive(os.path.realpath(name))
        # At exit the archives see to it themselves, those of interrupted finalizers included.
        weakref.finalize(self, release_archive, self._archive).atexit = False

    @property
    def path(self) -> Path:
        """The absolute path of the archive, links resolved."""
        return Path(self._archive.path)

    @property
    def place(self) -> str:
        """``zip:///`` and the absolute path."""
        return f"zip:///{self.path.as_posix()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._archive.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        self.flush()
        return type(self), (self._archive.path,), self._archive.seen

    def __setstate__(self, seen: bool) -> None:  # noqa: FBT001  # pickle's own way to call it
        # A worker to which the archive's disk is not mounted must say so, and not read fill values.
        if seen:
            self._archive.expect()

    # -- values -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        return self._value(self._archive.view(), _key(key))

    def __setitem__(self, key: str, value: Buffer) -> None:
        self._archive.write({_name(key): contiguous(value)})

    def __delitem__(self, key: str) -> None:
        if not self._delete(_key(key)):
            raise KeyError(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of a value, of a stored one without reading the rest.

        A checksum is compared where the whole of a value is read. See `ByteMapping.read`.
        """
        return self._value(self._archive.view(), _key(key), start, stop)

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there, from one version. See `ByteMapping.read_many`."""
        wanted = [_key(key) for key in keys]
        return self._archive.view().values(wanted)

    def size(self, key: str) -> int:
        """Return the length of a value in bytes, as the directory has it. See `ByteMapping.size`."""
        info = self._archive.view().find(_key(key))
        if info is None:
            raise KeyError(key)
        return info.file_size

    def size_many(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the lengths of the values of those keys that are there. See `ByteMapping.size_many`."""
        view = self._archive.view()
        found = {key: view.find(_key(key)) for key in keys}
        return {key: info.file_size for key, info in found.items() if info is not None}

    def sizes_under(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the keys that start with ``prefix``, each with its value's length. See `ByteMapping.sizes_under`."""
        view = self._archive.view()
        found = ((key, view.find(key)) for key in view.names_under(_key(prefix)))
        return ((key, info.file_size) for key, info in found if info is not None)

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        self._delete(_key(key))

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic."""
        key, value = _name(key), contiguous(default)
        with self._archive.lock:
            found = self._archive.writable().value(key)
            if found is not None:
                return found
            self._archive.write({key: value})
        return bytes(value)

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given. Atomic."""
        key = _key(key)
        with self._archive.lock:
            if self._archive.view().find(key) is not None:
                view = self._archive.writable()
                value = view.value(key)
                if value is not None:  # another writer's last version may be without it
                    view.put({key: None})
                    return value
        if default:
            return default[0]
        raise KeyError(key)

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values: all of them or none. See `ByteMapping.update_many`."""
        # Taken whole before the lock is: what computes them is not ours, and may be slow, or fork.
        rows = {_name(key): contiguous(value) for key, value in pairs(items)}
        if rows:
            self._archive.write(rows)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._archive.view().find(_key(key)) is not None

    def __iter__(self) -> Iterator[str]:
        return self.keys_under("")

    def __len__(self) -> int:
        return len(self._archive.view().names())

    def __bool__(self) -> bool:
        return bool(self._archive.view().names())

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, sorted, as they were when it began."""
        return self._archive.view().names_under(_key(prefix))

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``, without visiting what is beneath them."""
        prefix = level(_key(path))
        return iter(dict.fromkeys(name for name in _children(self._archive.view().names(), prefix) if name))

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key) in one step."""
        prefix = level(_key(path))
        with self._archive.lock:
            if any(True for _ in self._archive.view().names_under(prefix)):
                view = self._archive.writable()
                view.put(dict.fromkeys(view.names_under(prefix)))

    # -- publication --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Publish what is pending: write the new archive and put it in the old one's place.

        Raises
        ------
        StoreFullError
            There is no room for it. The old archive is as it was, and what is pending stays pending.
        StoreUnavailableError
            The archive was lost or replaced while values were pending.
        """
        self._archive.flush()

    def revert(self) -> None:
        """Give up what is pending, and let other processes write."""
        self._archive.revert()

    def close(self) -> None:
        """Publish what is pending (see `flush`), release the descriptors, and let other processes write."""
        self._archive.close()

    def _delete(self, key: str) -> bool:
        with self._archive.lock:
            if self._archive.view().find(key) is None:
                return False
            self._archive.writable().put({key: None})
            return True

    def _value(self, view: View, key: str, start: int = 0, stop: int | None = None) -> bytes:
        value = view.value(key, start, stop)
        if value is None:
            raise KeyError(key)
        return value


def _name(key: object) -> str:
    """Return a key that is to be written, if it is not too long for the format."""
    name = _key(key)
    if len(name) * 4 > _LONGEST_NAME and len(name.encode()) > _LONGEST_NAME:
        raise StoreOptionError(f"the key {name[:40]!r}… has more than {_LONGEST_NAME} bytes, zip's limit: shorten it")
    return name


def _children(names: list[str], prefix: str) -> Iterator[str]:
    """Yield the first parts of the names behind a prefix, in a sorted list, passing over what is beneath them."""
    at = bisect_left(names, prefix)
    while at < len(names) and names[at].startswith(prefix):
        child, slash, _ = names[at][len(prefix) :].partition("/")
        yield child
        # "0" follows "/".
        at = bisect_left(names, f"{prefix}{child}0", at) if slash else at + 1
