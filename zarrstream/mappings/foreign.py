"""Any ``MutableMapping`` that is not ours, brought under the mapping contract: one lock, and honest errors."""

from __future__ import annotations

import pickle
import shelve
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream.concurrency.fork import on_fork
from zarrstream.errors import PartialWriteError, StoreCorruptError, StoreError, StoreOptionError, StoreUnavailableError
from zarrstream.mappings.base import ByteMapping, contiguous, pairs
from zarrstream.mappings.foreign_classes import bound, is_copied, knows, makes_missing

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable, Iterable, Iterator, Mapping, MutableMapping

T = TypeVar("T")
_ABSENT: Any = object()
# zarr takes these for "not stored" and answers with fill values. From a foreign mapping each means that its place is
# lost, except for the KeyError of a key that is asked for.
_LOST = (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


class _SharedLock:
    """The lock of one foreign mapping, for every `ForeignMapping` around it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


# By the mapping's id, which nothing else has as long as the lock lives: whoever holds the lock holds the mapping.
_locks: weakref.WeakValueDictionary[int, _SharedLock] = weakref.WeakValueDictionary()
_locks_guard = threading.Lock()


def _after_fork_in_child() -> None:
    global _locks_guard  # noqa: PLW0603  # the thread that may have held it is not in the child
    _locks_guard = threading.Lock()
    for shared in list(_locks.values()):
        shared.lock = threading.RLock()


on_fork(40, child=_after_fork_in_child)


class ForeignMapping(ByteMapping):
    """A foreign ``MutableMapping[str, bytes]`` as a `ByteMapping`.

    Parameters
    ----------
    mapping : MutableMapping
        A dict, or a mapping of ``zict``, ``diskcache``, ``shelve`` and the like. It stays its owner's: `close` does not
        close it.

    Raises
    ------
    StoreOptionError
        A shelf on a dbm that is bound to the thread that opened it.

    Notes
    -----
    **Threads**: every call holds one lock, which all objects around the same mapping share. **Processes, durability**:
    what the mapping itself offers. **Verbs**: what the mapping's class overrides is what is called; values are read by
    ``[]``, but a ``__missing__`` is never asked. **Values** are buffers, zarr's included; any other is an error.
    **Pickling**: the mapping is pickled, and warns where that makes a copy, to which writes would be lost: of a dict,
    and of every other class that has no ``__reduce__`` which leads to a shared place.
    """

    def __init__(self, mapping: MutableMapping[str, bytes]) -> None:
        self.wrapped = mapping
        self.never_blocks = type(mapping) is dict
        self._sync = bound(mapping, "sync")
        self.durable_on_write = self._sync is None
        with _locks_guard:
            self._shared = _locks.setdefault(id(mapping), _SharedLock())
        if isinstance(mapping, shelve.Shelf):
            _refuse_bound_to_thread(mapping)

    @property
    def place(self) -> None:
        """None: what a foreign mapping is cannot be known."""
        return

    def __repr__(self) -> str:
        # Not the mapping's own repr, which may hold its content, or a URL with credentials.
        return f"{type(self).__name__}(<{type(self.wrapped).__module__}.{type(self.wrapped).__qualname__}>)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ForeignMapping):
            return False
        if self.wrapped is other.wrapped:
            return True
        return type(self.wrapped) is type(other.wrapped) and self._call(lambda: self.wrapped == other.wrapped)

    __hash__ = None  # type: ignore[assignment]  # equality is the content's, which changes

    def __reduce__(self) -> tuple[Any, ...]:
        with self._shared.lock:
            try:
                if isinstance(self.wrapped, shelve.Shelf):  # on some dbm it pickles, into two that spoil each other
                    raise TypeError("a shelf is one process's")  # noqa: TRY301  # the same message as of the others
                pickled = pickle.dumps(self.wrapped)
                copied = is_copied(self.wrapped, pickled)
            except Exception as error:
                raise StoreOptionError(
                    f"{self!r} cannot be pickled, so other processes cannot use it ({error}): open a store that has a "
                    f"place, such as sqlite:///PATH, instead"
                ) from error
        if copied:
            message = (
                f"a pickled {type(self.wrapped).__name__} is a copy, and writes to it are lost to this one: use a "
                f"store with a place, such as sqlite:///PATH"
            )
            warnings.warn(message, UserWarning, stacklevel=2)
        return _restore, (pickled,)

    def __getitem__(self, key: str) -> bytes:
        value = self._call(lambda: self._found(key))
        if value is _ABSENT:
            raise KeyError(key)
        return self._bytes(key, value)

    def __setitem__(self, key: str, value: Buffer) -> None:
        owned = bytes(contiguous(value))
        self._call(lambda: self.wrapped.__setitem__(key, owned))

    def __delitem__(self, key: str) -> None:
        def delete() -> bool:
            if key not in self.wrapped:
                return False
            del self.wrapped[key]
            return True

        if not self._call(delete):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._call(lambda: key in self.wrapped)

    def __iter__(self) -> Iterator[str]:
        names = self._call(lambda: list(self.wrapped))
        for name in names:
            if not isinstance(name, str):
                raise StoreCorruptError(
                    f"{self!r} has a key that is no text, {name!r}: use a mapping from str to bytes"
                )
        return iter(names)

    def __len__(self) -> int:
        return self._call(lambda: len(self.wrapped))

    def __bool__(self) -> bool:
        return self._call(lambda: bool(self.wrapped))

    # -- verbs that are made of others, unless the mapping's class knows better. Atomic within this process ------------

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Return the value of a key; ``default`` where it is absent."""
        if knows(self.wrapped, "get", "__getitem__"):
            value = self._call(lambda: self.wrapped.get(key, _ABSENT))
        else:
            value = self._call(lambda: self._found(key))
        return default if value is _ABSENT else self._bytes(key, value)

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then."""
        if knows(self.wrapped, "setdefault", "__getitem__", "__setitem__", "__contains__"):
            owned = bytes(contiguous(default))
            return self._bytes(key, self._call(lambda: self.wrapped.setdefault(key, owned)))
        with self._shared.lock:
            return super().setdefault(key, default)

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given."""

        def pop() -> Any:  # noqa: ANN401  # whatever the mapping holds
            try:
                return self.wrapped.pop(key)
            except KeyError:
                return _ABSENT

        if not knows(self.wrapped, "pop", "__getitem__", "__delitem__"):
            with self._shared.lock:
                return super().pop(key, *default)
        value = self._call(pop)
        if value is not _ABSENT:
            return self._bytes(key, value)
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self) -> tuple[str, bytes]:
        """Remove a key, and return it with its value; ``KeyError`` where there is none."""
        with self._shared.lock:
            if not self:
                raise KeyError("the mapping is empty")
            if knows(self.wrapped, "popitem", "__getitem__", "__delitem__", "__iter__"):
                key, value = self._call(self.wrapped.popitem)
                return key, self._bytes(key, value)
            return super().popitem()

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values. See `ByteMapping.update_many`."""
        if not knows(self.wrapped, "update", "__setitem__"):
            super().update_many(items)
            return
        rows = {key: bytes(contiguous(value)) for key, value in pairs(items)}
        with self._shared.lock:
            try:
                self._call(lambda: self.wrapped.update(rows))
            except Exception as error:
                written = tuple(key for key, value in rows.items() if self.get(key) == value)
                if not written:
                    raise
                message = f"of {len(rows)} keys {len(written)} are written to {self!r}"
                raise PartialWriteError(message, written=written) from error

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key). See `ByteMapping.clear_under`."""
        if not path and knows(self.wrapped, "clear", "__delitem__", "popitem"):
            self._call(self.wrapped.clear)
            return
        with self._shared.lock:
            super().clear_under(path)

    def flush(self) -> None:
        """Call the mapping's ``sync()``, which a shelf has."""
        if self._sync is not None:
            self._call(self._sync)

    def _found(self, key: str) -> Any:  # noqa: ANN401  # whatever the mapping holds
        """Return the value of a key, or the mark of an absent one. The caller holds the lock."""
        if makes_missing(self.wrapped) and key not in self.wrapped:
            return _ABSENT  # ``[]`` of a defaultdict would store what is not there
        try:
            return self.wrapped[key]
        except KeyError:
            return _ABSENT

    def _bytes(self, key: str, value: Any) -> bytes:  # noqa: ANN401  # as above
        if type(value) is bytes:
            return value
        try:
            # zarr's MemoryStore fills a dict with its own buffers. `bytes` would take a number for a length.
            view = memoryview(value.as_numpy_array() if hasattr(value, "as_numpy_array") else value)
            # A bytearray, or a view into a mapped file, may change under the reader.
            return bytes(contiguous(view if view.c_contiguous else view.tobytes()))
        except TypeError as error:
            raise StoreCorruptError(
                f"{key!r} in {self!r} is a {type(value).__name__}, and no bytes ({error}): is it another mapping's key?"
            ) from error

    def _call(self, work: Callable[[], T]) -> T:
        with self._shared.lock:
            try:
                return work()
            except _LOST as error:
                message = f"{self!r} has lost its place, or refuses a key ({type(error).__name__}: {error})"
                raise StoreUnavailableError(message) from error


def _restore(pickled: bytes) -> ForeignMapping:
    return ForeignMapping(pickle.loads(pickled))  # noqa: S301  # within the pickle that it came with


def _refuse_bound_to_thread(shelf: shelve.Shelf[Any]) -> None:
    database: Any = vars(shelf)["dict"]

    def probe() -> None:
        b"" in database  # noqa: B015  # asked for what it raises

    try:
        probe()
    except Exception as error:
        raise StoreError(f"the shelf does not answer: is it closed? ({error})") from error
    try:
        with ThreadPoolExecutor(1) as other_thread:
            other_thread.submit(probe).result()
    except Exception as error:
        raise StoreOptionError(
            f"this shelf is kept in a {type(database).__module__}, which works only in the thread that opened it, "
            f"and zarr reads and writes from many ({error}): use sqlite:///PATH, or a shelf on another dbm"
        ) from error
