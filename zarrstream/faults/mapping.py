"""The mock: any mapping, with its calls recorded and faults injected. For tests of whatever stores chunks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream.faults.script import Call, Encounter, Fault, Held, Script
from zarrstream.mappings.base import ByteMapping, contiguous, level, names_below, pairs
from zarrstream.mappings.foreign import ForeignMapping

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable, Iterable, Iterator, Mapping, MutableMapping

T = TypeVar("T")


class FaultyMapping(ByteMapping):
    """A mapping that fails when it is told to, and remembers what was asked of it.

    Parameters
    ----------
    inner : MutableMapping[str, bytes]
        What is wrapped: a `ByteMapping`, or any other.
    *faults : Fault
        What goes wrong.
    seed : int, optional
        Decides which calls a fault with a ``rate`` befalls: the same seed, the same calls.

    Attributes
    ----------
    inner : ByteMapping
        What is wrapped, under the contract.

    Notes
    -----
    Without faults it is what it wraps. **Threads**: safe; each call is recorded when it ends. **Processes, durability,
    atomicity**: those of ``inner``; a batch (`update_many`, `read_many`) meets the faults of each of its keys first,
    and then goes through ``inner`` as one. **Pickling**: as ``inner``, with its faults and seed; calls are not carried
    along.

    Examples
    --------
    >>> mapping = FaultyMapping({}, Fault(kind="lost-acknowledgement", operation="set", nth=2))
    >>> mapping["a"] = b"1"
    >>> mapping["b"] = b"2"
    Traceback (most recent call last):
    zarrstream.errors.StoreUnavailableError: injected: set of 'b' (lost-acknowledgement)
    >>> mapping["b"], mapping.count("set")
    (b'2', 2)
    """

    def __init__(self, inner: MutableMapping[str, bytes], *faults: Fault, seed: int = 0) -> None:
        self.inner = inner if isinstance(inner, ByteMapping) else ForeignMapping(inner)
        self._script = Script(faults, seed)
        self._listed: list[str] | None = None
        if any(fault.kind == "stale-listing" for fault in faults):
            self._listed = list(self.inner)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.inner, tuple(self._script.faults), self._script.seed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r}, {len(self._script.faults)} faults, {len(self.calls)} calls)"

    @property
    def place(self) -> str | None:
        """That of ``inner``."""
        return self.inner.place

    @property
    def lock_path(self) -> str | None:
        """That of ``inner``."""
        return self.inner.lock_path

    @property
    def durable_on_write(self) -> bool:  # type: ignore[override]  # as ``inner`` has it
        """Whether a write that returned is published."""
        return self.inner.durable_on_write

    # -- what tests ask and say ----------------------------------------------------------------------------------------

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that have ended, in that order."""
        return self._script.calls

    def count(self, operation: str = "*", key: str = "*") -> int:
        """Return how many calls of an operation on keys, both glob patterns, have ended."""
        return self._script.count(operation, key)

    def inject(self, *faults: Fault) -> None:
        """Let more go wrong, from now on."""
        if self._listed is None and any(fault.kind == "stale-listing" for fault in faults):
            self._listed = list(self.inner)
        self._script.inject(faults)

    def mend(self) -> None:
        """Let nothing go wrong any more; what hangs goes on."""
        self._script.mend()

    def end_hangs(self) -> None:
        """Let the calls that hang go on."""
        self._script.end_hangs()

    def hold(self, operation: str = "*", key: str = "*") -> Held:
        """Make the calls that match wait until they are released. See `Held`."""
        return self._script.hold(operation, key)

    # -- the mapping ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        return self._read(key, lambda: self.inner[key])

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a byte range of a value. See `ByteMapping.read`."""
        return self._read(key, lambda: self.inner.read(key, start, stop))

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there. See `ByteMapping.read_many`."""
        keys = list(keys)
        met = self._meet_each("get", keys)

        def work() -> dict[str, bytes]:
            found = self.inner.read_many(keys)
            return {key: met[key].spoil(bytes(value)) for key, value in found.items()}

        return self._carry_out(list(met.values()), work, lambda found, key: len(found.get(key, b"")))

    def __setitem__(self, key: str, value: Buffer) -> None:
        self._write("set", key, value, self.inner.__setitem__)

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there. See `ByteMapping.setdefault`."""
        return self._write("set_new", key, default, self.inner.setdefault)

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values. See `ByteMapping.update_many`."""
        given = [(key, bytes(contiguous(value))) for key, value in pairs(items)]
        sizes = {key: len(value) for key, value in given}
        met = self._meet_each("set", [key for key, _ in given])
        self._carry_out(
            list(met.values()),
            lambda: self.inner.update_many([(key, met[key].spoil(value)) for key, value in given]),
            lambda _, key: sizes[key],
        )

    def __delitem__(self, key: str) -> None:
        self._call("delete", key, lambda _: self.inner.__delitem__(key))

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value, as one step of ``inner``: a call of ``"get"`` and one of ``"delete"``."""
        read, removed = self._script.meet("get", key), self._script.meet("delete", key)

        def take() -> bytes:
            with self._script.noting([removed]):
                removed.begin()
                value = read.spoil(bytes(self.inner.pop(key)))
                removed.fail("lost-acknowledgement")
                return value

        try:
            return self._carry_out([read], take, lambda value, _: len(value))
        except KeyError:
            if default:
                return default[0]
            raise

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        self._call("delete", key, lambda _: self.inner.discard(key))

    def size(self, key: str) -> int:
        """Return the length of a value in bytes."""
        return self._call("size", key, lambda _: self.inner.size(key))

    def __contains__(self, key: object) -> bool:
        return self._call("contains", str(key), lambda _: key in self.inner)

    def __iter__(self) -> Iterator[str]:
        return self.keys_under("")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``; the listing is read when it begins."""
        return iter(self._call("list", prefix, partial(self._keys, prefix)))

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``; the listing is read when it begins."""

        def work(encounter: Encounter) -> list[str]:
            if encounter.has("stale-listing"):
                return list(names_below(path, self._keys(level(path), encounter)))
            self._take_note()
            return list(self.inner.children(path))

        return iter(self._call("list", level(path), work))

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path``. See `ByteMapping.clear_under`."""
        self._call("clear", path, lambda _: self.inner.clear_under(path))

    def flush(self) -> None:
        """Publish what is pending in ``inner``."""
        self._call("flush", "", lambda _: self.inner.flush())

    def close(self) -> None:
        """Let what hangs go on, and close ``inner``."""
        self._script.end_hangs()
        self.inner.close()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _keys(self, prefix: str, encounter: Encounter) -> list[str]:
        if encounter.has("stale-listing"):
            return [key for key in self._listed or () if key.startswith(prefix)]
        self._take_note()
        return list(self.inner.keys_under(prefix))

    def _take_note(self) -> None:
        """Remember what is there, for listings that will be stale, if there are to be such."""
        if self._listed is not None:
            self._listed = list(self.inner)

    def _read(self, key: str, work: Callable[[], bytes]) -> bytes:
        return self._call("get", key, lambda encounter: encounter.spoil(bytes(work())), len)

    def _write(self, operation: str, key: str, value: Buffer, write: Callable[[str, bytes], T]) -> T:
        content = bytes(contiguous(value))
        return self._call(operation, key, lambda met: write(key, met.spoil(content)), lambda _: len(content))

    def _call(
        self, operation: str, key: str, work: Callable[[Encounter], T], nbytes: Callable[[T], int] = lambda _: 0
    ) -> T:
        met = self._script.meet(operation, key)
        return self._carry_out([met], lambda: work(met), lambda result, _: nbytes(result))

    def _meet_each(self, operation: str, keys: list[str]) -> dict[str, Encounter]:
        return {key: self._script.meet(operation, key) for key in dict.fromkeys(keys)}

    def _carry_out(self, met: list[Encounter], work: Callable[[], T], nbytes: Callable[[T, str], int]) -> T:
        with self._script.noting(met) as sizes:
            for encounter in met:
                encounter.begin()
            result = work()
            sizes.update((key, nbytes(result, key)) for key in list(sizes))
            for encounter in met:
                encounter.fail("lost-acknowledgement")
        return result


def _restore(cls: type[FaultyMapping], inner: ByteMapping, faults: tuple[Fault, ...], seed: int) -> FaultyMapping:
    return cls(inner, *faults, seed=seed)
