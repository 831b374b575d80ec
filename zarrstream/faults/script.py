"""What goes wrong, and when: decided here and carried out by `FaultyMapping` and `FaultyStore`."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

from zarrstream.errors import StoreOptionError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

Kind: TypeAlias = Literal[
    "error", "lost-acknowledgement", "latency", "hang", "truncated-value", "flipped-bit", "stale-listing"
]
#: What a fault can befall: reading a value or its size, asking for a key, writing, writing what is not there, ...
OPERATIONS = ("get", "size", "contains", "set", "set_new", "delete", "clear", "list", "flush")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Parameters
    ----------
    kind : str
        * ``"error"``: the call fails and has no effect;
        * ``"lost-acknowledgement"``: it has its effect, and fails;
        * ``"latency"``: it begins ``seconds`` later;
        * ``"hang"``: it does not begin before ``end_hangs()`` or ``close()``;
        * ``"truncated-value"``, ``"flipped-bit"``: half of the value is read (or stored), or one bit of it is wrong;
        * ``"stale-listing"``: keys are listed as they were at the last listing that was not stale.
    operation : str, optional
        A glob pattern of the operations that it befalls, which `OPERATIONS` lists.
    key : str, optional
        A glob pattern of the keys (of a listing or clearing: the path or prefix).
    rate : float, optional
        The share of the matching calls, 0 to 1. Which ones, the seed decides: the same calls have the same faults,
        however threads take turns.
    nth : int, optional
        Only the n-th matching call, counted from 1.
    onwards : bool, optional
        The n-th and all after it.
    error : callable, optional
        Makes the exception from a message; `StoreUnavailableError` by default.
    seconds : float, optional
        How long a latency is.

    Raises
    ------
    StoreOptionError
        An unknown kind, or a number that is none of these.
    """

    kind: Kind
    operation: str = "*"
    key: str = "*"
    rate: float = 1.0
    nth: int | None = None
    onwards: bool = False
    error: Callable[[str], Exception] = StoreUnavailableError
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise StoreOptionError(f"a fault is one of {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not 0 <= self.rate <= 1:
            raise StoreOptionError(f"rate is a share, 0 to 1, not {self.rate!r}")
        if self.nth is not None and self.nth < 1:
            raise StoreOptionError(f"nth counts from 1, and is not {self.nth!r}")
        if self.seconds < 0 or (self.kind == "latency" and not self.seconds):
            raise StoreOptionError(f"seconds is how long a latency is, not {self.seconds!r}")
        if not any(fnmatchcase(name, self.operation) for name in OPERATIONS):
            raise StoreOptionError(f"no operation is called {self.operation!r}: they are {', '.join(OPERATIONS)}")

    def matches(self, operation: str, key: str) -> bool:
        """Return whether a call is one that this may befall."""
        return fnmatchcase(operation, self.operation) and fnmatchcase(key, self.key)


@dataclass(frozen=True)
class Call:
    """A call that has ended.

    Attributes
    ----------
    operation, key : str
        What was done to what.
    nbytes : int
        Bytes of the value that was read or written.
    thread : str
        The name of the thread.
    outcome : str
        ``"ok"``, ``"absent"``, or the name of the exception.
    faults : tuple of str
        The kinds of the faults that befell it.
    """

    operation: str
    key: str
    nbytes: int
    thread: str
    outcome: str
    faults: tuple[str, ...] = ()


class Held:
    """Calls that wait until they are released: an interleaving is forced, not hoped for.

    Attributes
    ----------
    arrived : concurrent.futures.Future
        Done once a call waits; its result is ``(operation, key)``.
    released : concurrent.futures.Future
        Done by `release`, or by leaving the ``with`` block.
    """

    def __init__(self, operation: str, key: str) -> None:
        self.operation, self.key = operation, key
        self.arrived: Future[tuple[str, str]] = Future()
        self.released: Future[None] = Future()

    def release(self) -> None:
        """Let the calls go on, and hold no more."""
        if not self.released.done():
            self.released.set_result(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass
class Encounter:
    """What befalls one call.

    Attributes
    ----------
    faults : list of Fault
        Those that befall it.
    waits : list of Future
        What it waits for before it begins.
    """

    operation: str
    key: str
    faults: list[Fault]
    waits: list[Future[None]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How much later it begins."""
        return sum(fault.seconds for fault in self.faults if fault.kind == "latency")

    def begin(self) -> None:
        """Wait for what it has to wait for, and fail where it is to have no effect."""
        for wait in self.waits:
            wait.result()
        if self.seconds:
            time.sleep(self.seconds)
        self.fail("error")

    def has(self, kind: Kind) -> bool:
        """Return whether a fault of a kind befalls it."""
        return any(fault.kind == kind for fault in self.faults)

    def fail(self, kind: Kind) -> None:
        """Raise the error of a fault of a kind, if there is one."""
        for fault in self.faults:
            if fault.kind == kind:
                raise fault.error(f"injected: {self.operation} of {self.key!r} ({kind})")

    def spoil(self, value: bytes) -> bytes:
        """Return a value as it is read or stored."""
        if self.has("truncated-value"):
            value = value[: len(value) // 2]
        if self.has("flipped-bit") and value:
            middle = len(value) // 2
            value = value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
        return value


class Script:
    """The faults of one mapping or store, what is held, and what was called.

    Parameters
    ----------
    faults : tuple of Fault
        What goes wrong.
    seed : int
        Decides which calls a ``rate`` befalls.
    """

    def __init__(self, faults: tuple[Fault, ...], seed: int) -> None:
        for fault in faults:
            if not isinstance(fault, Fault):
                raise StoreOptionError(f"what goes wrong is said by Fault(kind=...), not by {fault!r}")
        self.faults, self.seed = list(faults), seed
        self._guard = threading.Lock()
        self._matched: Counter[int] = Counter()
        self._met: Counter[tuple[str, str]] = Counter()
        self._held: list[Held] = []
        self._hanging: Future[None] = Future()
        self._calls: list[Call] = []

    def __reduce__(self) -> tuple[type[Script], tuple[tuple[Fault, ...], int]]:
        return type(self), (tuple(self.faults), self.seed)

    def meet(self, operation: str, key: str) -> Encounter:
        """Decide what befalls a call."""
        with self._guard:
            encounter, holding = self._met_and_held(operation, key)
        for held in holding:
            if not held.arrived.done():
                held.arrived.set_result((operation, key))
        return encounter

    def _met_and_held(self, operation: str, key: str) -> tuple[Encounter, list[Held]]:
        # A function of its own: within the `with`, CPython would take its loops for outside of it.
        self._met[operation, key] += 1
        faults = [fault for number, fault in enumerate(self.faults) if self._befalls(number, fault, operation, key)]
        encounter = Encounter(operation, key, faults)
        if encounter.has("hang"):
            encounter.waits.append(self._hanging)
        holding = [held for held in self._held if fnmatchcase(operation, held.operation)]
        holding = [held for held in holding if fnmatchcase(key, held.key) and not held.released.done()]
        encounter.waits += [held.released for held in holding]
        return encounter, holding

    def _befalls(self, number: int, fault: Fault, operation: str, key: str) -> bool:
        if not fault.matches(operation, key):
            return False
        self._matched[number] += 1
        count = self._matched[number]
        if fault.nth is not None and count != fault.nth and not (fault.onwards and count > fault.nth):
            return False
        # By what is called and how often it was, so that the order in which threads come decides nothing.
        lot = f"{self.seed}/{number}/{operation}/{key}/{self._met[operation, key]}"
        return fault.rate >= 1 or random.Random(lot).random() < fault.rate  # noqa: S311  # no secret

    def hold(self, operation: str, key: str) -> Held:
        """Hold the calls that match from now on."""
        held = Held(operation, key)
        with self._guard:
            self._held = [*(other for other in self._held if not other.released.done()), held]
        return held

    def inject(self, faults: tuple[Fault, ...]) -> None:
        """Let more go wrong, from now on."""
        self.faults += Script(faults, self.seed).faults

    def mend(self) -> None:
        """Let nothing go wrong any more; what hangs goes on."""
        with self._guard:
            self.faults.clear()
            self._matched.clear()
        self.end_hangs()

    def count(self, operation: str, key: str) -> int:
        """Return how many calls of an operation on keys, both glob patterns, have ended."""
        pattern = Fault(kind="error", operation=operation, key=key)
        return sum(pattern.matches(call.operation, call.key) for call in self.calls)

    def end_hangs(self) -> None:
        """Let the calls that hang go on."""
        with self._guard:
            hanging, self._hanging = self._hanging, Future()
        hanging.set_result(None)

    @contextmanager
    def noting(self, met: list[Encounter]) -> Iterator[dict[str, int]]:
        """Take down calls when they end; the block says, by key, how many bytes were read or written."""
        outcome, sizes = "ok", {encounter.key: 0 for encounter in met}
        try:
            yield sizes
        except KeyError:
            outcome = "absent"
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            thread = threading.current_thread().name
            with self._guard:
                self._calls += [
                    Call(one.operation, one.key, sizes[one.key], thread, outcome, tuple(f.kind for f in one.faults))
                    for one in met
                ]

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that have ended, in that order."""
        with self._guard:
            return tuple(self._calls)
