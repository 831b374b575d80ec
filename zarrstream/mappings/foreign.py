"""Any ``MutableMapping`` that is not ours, brought under the mapping contract: one lock, and honest errors."""

from __future__ import annotations

import os
import pickle
import shelve
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream.errors import StoreError, StoreOptionError, StoreUnavailableError
from zarrstream.mappings.base import ByteMapping, contiguous

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable, Iterator, MutableMapping

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


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


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
    what the mapping itself offers. **Pickling**: the mapping is pickled. A plain dict becomes a copy, with a warning.
    """

    def __init__(self, mapping: MutableMapping[str, bytes]) -> None:
        self.wrapped = mapping
        self.never_blocks = type(mapping) is dict
        self._sync = getattr(mapping, "sync", None)
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
        if isinstance(self.wrapped, dict):
            message = "a pickled dict is a copy, and writes to it are lost to this one: use a store with a place"
            warnings.warn(message, UserWarning, stacklevel=2)
        with self._shared.lock:
            try:
                if isinstance(self.wrapped, shelve.Shelf):  # on some dbm it pickles, into two that spoil each other
                    raise TypeError("a shelf is one process's")  # noqa: TRY301  # the same message as of the others
                return _restore, (pickle.dumps(self.wrapped),)
            except Exception as error:
                raise StoreOptionError(
                    f"{self!r} cannot be pickled, so other processes cannot use it ({error}): open a store that has a "
                    f"place, such as sqlite:///PATH, instead"
                ) from error

    def __getitem__(self, key: str) -> bytes:
        # ``get``, since a defaultdict's ``[]`` would store what is not there.
        value = self._call(lambda: self.wrapped.get(key, _ABSENT))
        if value is _ABSENT:
            raise KeyError(key)
        # A bytearray, or a view into a mapped file, may change under the reader.
        return value if type(value) is bytes else bytes(value)

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
        return iter(self._call(lambda: list(self.wrapped)))

    def __len__(self) -> int:
        return self._call(lambda: len(self.wrapped))

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic within this process."""
        with self._shared.lock:
            return super().setdefault(key, default)

    def flush(self) -> None:
        """Call the mapping's ``sync()``, which a shelf has."""
        if self._sync is not None:
            self._call(self._sync)

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
