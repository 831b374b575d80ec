"""The mapping contract: what every back end offers beside ``MutableMapping``, each with an honest default."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from zarrstream.errors import PartialWriteError, StoreOptionError

if TYPE_CHECKING:
    from collections.abc import Buffer  # named so since Python 3.12; the type checker alone reads it

T = TypeVar("T")
_REQUIRED: Any = object()
_KEYS_AT_ONCE = 1024  # whose sizes are asked for together


def checked_key(key: object) -> str:
    """Return ``key`` if a back end can hold it.

    Raises
    ------
    TypeError
        ``key`` is no string.
    StoreOptionError
        ``key`` has no UTF-8 form (a lone surrogate), or holds the NUL character, which no file system and few
        databases take.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key is a string, not {type(key).__name__}: {key!r}")
    if "\0" in key:
        raise StoreOptionError(f"the key {key!r} holds a NUL character, which stores cannot hold: rename the node")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StoreOptionError(f"the key {key!r} has no UTF-8 form ({error.reason}): rename the node") from error
    return key


def contiguous(value: Buffer) -> bytes | memoryview:
    """Return ``value`` as something that drivers take as bytes, without a copy.

    Raises
    ------
    TypeError
        ``value`` is no buffer, or one of Python objects: its memory is their addresses.
    ValueError
        ``value`` is not C-contiguous, so that its memory is not its content.
    """
    if type(value) is bytes:
        return value
    view = memoryview(value)
    if not view.c_contiguous:
        raise ValueError("a value is a C-contiguous buffer: pass numpy.ascontiguousarray(value), or bytes(value)")
    # The format of a record has the names of its fields between colons.
    if view.format != "B" and "O" in re.sub(":[^:]*:", "", view.format):
        raise TypeError("a value is bytes, and not Python objects, whose memory holds their addresses: encode them")
    # An empty buffer may have no address at all, which drivers take for NULL.
    return view if view.nbytes else b""


def level(path: str) -> str:
    """Return the prefix of the keys beneath ``path``: ``""`` for the root, else ``"path/"``."""
    return f"{path}/" if path else ""


def names_below(path: str, keys: Iterable[str]) -> Iterator[str]:
    """Yield the names one level below ``path``, each once, of keys that all lie beneath it."""
    start = len(level(path))
    names = (key[start:].partition("/")[0] for key in keys)
    return iter(dict.fromkeys(name for name in names if name))


def pairs(items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> Iterable[tuple[str, Buffer]]:
    """Return the pairs of a mapping, of anything that has ``keys()`` and ``[]``, or of an iterable of pairs."""
    if isinstance(items, Mapping):
        return items.items()
    keyed: Any = items
    return ((key, keyed[key]) for key in keyed.keys()) if hasattr(items, "keys") else items  # noqa: SIM118  # as dict


class ByteMapping(MutableMapping[str, bytes]):
    """Bytes under string keys, in some place.

    A back end writes the five methods of ``MutableMapping`` and overrides whatever its place does better than the
    defaults here.

    Attributes
    ----------
    durable_on_write : bool
        Whether a write that returned is published. False where that takes a ``flush()`` (an archive, for example).
    never_blocks : bool
        Whether every call returns at once, without I/O, so that it may run on an event loop.

    Notes
    -----
    What every implementation keeps:

    * Values go in as any contiguous buffer, and are copied or written before the call returns. They come out as
      ``bytes``, or as a read-only ``memoryview`` that owns its memory.
    * Only an absent key raises ``KeyError``; every other failure is a `zarrstream.errors.StoreError`.
    * It is picklable (it reduces to its place and reconnects), survives ``fork``, and is safe from many threads.
    * `close` releases what it holds; any later use reconnects.
    * Equality and hash are those of the `place`, not of the content.
    """

    durable_on_write: bool = True
    never_blocks: bool = False

    @property
    @abstractmethod
    def place(self) -> str | None:
        """The identity of what is stored where, as a URL without credentials; None where there is none.

        Two mappings with one place show the same data. Equality, hash, checkpoints and messages use it.
        """

    @property
    def lock_path(self) -> str | None:
        """A file in this place by which the processes of this machine that share it take turns; None where none is."""
        return None

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of a value.

        Parameters
        ----------
        key : str
            The key.
        start, stop : int, optional
            A half-open range in bytes, as in ``value[start:stop]``: a negative start counts from the end, and what
            lies outside of the value is cut off.

        Raises
        ------
        KeyError
            The key is absent.
        """
        return bytes(memoryview(self[key])[start:stop])

    def read_ranges(self, key: str, spans: Sequence[tuple[int, int | None]]) -> list[bytes]:
        """Return several parts of a value; where a back end can, from one version and in one call.

        Parameters
        ----------
        key : str
            The key.
        spans : sequence of (int, int or None)
            Half-open ranges in bytes, as `read` takes them.

        Raises
        ------
        KeyError
            The key is absent.
        """
        return [self.read(key, start, stop) for start, stop in spans]

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there; where a back end can, from one version and in one call.

        Parameters
        ----------
        keys : iterable of str
            Keys, in any order.
        """
        found = {}
        for key in keys:
            with suppress(KeyError):
                found[key] = bytes(self[key])
        return found

    def size(self, key: str) -> int:
        """Return the length of a value in bytes; ``KeyError`` where the key is absent."""
        return len(self[key])

    def size_many(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the lengths of the values of those keys that are there, in bytes; in one call where a back end can.

        Parameters
        ----------
        keys : iterable of str
            Keys, in any order.
        """
        found = {}
        for key in keys:
            with suppress(KeyError):
                found[key] = self.size(key)
        return found

    def sizes_under(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the keys that start with ``prefix``, each with the length of its value in bytes, in no promised order.

        Parameters
        ----------
        prefix : str
            Taken literally. A key that is removed meanwhile may be left out.
        """
        keys = self.keys_under(prefix)
        while page := list(islice(keys, _KEYS_AT_ONCE)):
            yield from self.size_many(page).items()

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, taken literally, in no promised order."""
        return (key for key in list(self) if key.startswith(prefix))

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``, each once: of keys, and of the levels that keys pass through.

        Parameters
        ----------
        path : str
            A path without a slash at its end; ``""`` is the root.
        """
        return names_below(path, self.keys_under(level(path)))

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key); the key ``path`` itself stays."""
        for key in list(self.keys_under(level(path))):
            self.discard(key)

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        try:
            del self[key]
        except KeyError:
            return

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values: all or none of them where the back end can, and otherwise say which were written.

        Parameters
        ----------
        items : mapping, or iterable of (str, buffer)
            Keys and values; the last wins where a key comes twice.

        Raises
        ------
        PartialWriteError
            A write failed after others had succeeded; ``written`` names these, ``__cause__`` is the failure.
        """
        written: list[str] = []
        for key, value in pairs(items):
            try:
                self[key] = value
            except Exception as error:
                if not written:
                    raise
                message = f"{key!r} was not written to {self.place or self!r}, {len(written)} keys before it were"
                raise PartialWriteError(message, written=tuple(written)) from error
            written.append(key)

    def flush(self) -> None:
        """Publish what is pending; nothing to do where ``durable_on_write``."""

    def close(self) -> None:
        """Release connections and descriptors; any later use takes them again."""

    # -- MutableMapping, where its own form is dear -------------------------------------------------------------------

    if TYPE_CHECKING:
        # A back end takes any buffer and gives bytes back, which ``MutableMapping`` has no words for.
        @abstractmethod
        def __setitem__(self, key: str, value: Buffer) -> None: ...

    def __contains__(self, key: object) -> bool:
        try:
            self.size(cast("str", key))
        except (KeyError, TypeError):
            return False
        return True

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, ByteMapping) and self.place is not None and self.place == other.place

    def __hash__(self) -> int:
        return id(self) if self.place is None else hash(self.place)

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then.

        Atomic in the back ends that say so; this default form is not.
        """
        try:
            return self[key]
        except KeyError:
            self[key] = default
            return bytes(contiguous(default))

    @overload
    def pop(self, key: str, /) -> bytes: ...
    @overload
    def pop(self, key: str, /, default: bytes) -> bytes: ...
    @overload
    def pop(self, key: str, /, default: T) -> bytes | T: ...
    def pop(self, key: str, /, default: Any = _REQUIRED) -> Any:
        """Remove a key and return its value; ``default`` where it is absent, if that is given."""
        try:
            value = self[key]
        except KeyError:
            if default is _REQUIRED:
                raise
            return default
        self.discard(key)
        return value

    def clear(self) -> None:
        """Remove every key."""
        self.clear_under("")

    def update(self, other: Any = (), /, **values: Any) -> None:  # noqa: ANN401  # all that ``dict.update`` takes
        """Write the items of a mapping, or of an iterable of pairs, as `update_many` does."""
        self.update_many(chain(pairs(other), values.items()))
