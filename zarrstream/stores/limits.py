"""One limit of requests per place and process, whatever the threads and event loops; it adapts to throttling."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from weakref import WeakValueDictionary, ref

from zarrstream.concurrency.fork import on_fork
from zarrstream.errors import StoreError, StoreOptionError
from zarrstream.stores.slots import Slot

_CALM = 0.1  # seconds: the failures of one moment are one sign, not several
_BEAT = 1.0  # seconds after which a waiter looks by itself, for what a caller that vanished has told nobody


class Limit:
    """How many calls may be under way at a place, and how many may begin in a second: `slot` is a context around each.

    Attributes
    ----------
    size : int or None
        How many at most; None for any number.
    rate : float or None
        How many may begin per second; None for any number.
    room : float
        How many at present: a throttled call halves it, each successful one adds its part of one more
        (additive increase, multiplicative decrease: Chiu and Jain, 1989).
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self.rate: float | None = None
        self.room = float("inf")
        self.forget()

    def forget(self) -> None:
        """Begin with no call under way: in a forked child, whose calls the parent's are not."""
        self._guard = threading.Lock()
        self.held: dict[int, ref[Slot]] = {}
        self.waiting: OrderedDict[int, ref[Slot]] = OrderedDict()
        self._halved = self._looked = self._next_start = 0.0
        self._first: int | None = None

    @property
    def busy(self) -> int:
        """How many are under way."""
        return len(self.held)

    def slot(self) -> Slot:
        """Return a context for one call: ``with`` or ``async with``."""
        return Slot(self)

    def restrict(self, size: int | None, rate: float | None) -> None:
        """Take a store's wishes: among several stores at one place, the smaller number counts."""
        with self._guard:
            if size is not None:
                self.size = size if self.size is None else min(self.size, size)
                self.room = min(self.room, self.size)
            if rate is not None:
                self.rate = rate if self.rate is None else min(self.rate, rate)

    # -- taking and giving --------------------------------------------------------------------------------------------

    def admits(self, slot: Slot) -> bool:
        """Take room and a turn at once, if nobody waits for them."""
        with self._guard:
            free = not self.waiting and self._is_free()
            if free:
                self._admit(slot, time.monotonic())
            return free

    def queue(self, slot: Slot) -> None:
        """Put a slot behind those that wait."""
        with self._guard:
            if slot.key not in self.held and 0 in slot.parts:
                self.waiting.setdefault(slot.key, ref(slot))
                if len(self.waiting) == 1:
                    self._looked = 0.0
        self.settle()

    def leave(self, slot: Slot) -> None:
        """Take a slot out of the tables, and admit the next."""
        with self._guard:
            if slot.held.pop(slot.key, None) is not None and not slot.begun and self.rate is not None:
                self._next_start -= 1 / self.rate  # a turn that nobody used
            known = self.waiting.get(slot.key)
            if known is not None and known() is slot:  # in a forked child it may be another's
                del self.waiting[slot.key]
        self.settle()

    def settle(self) -> None:
        """Admit those that there is room and a turn for, in the order in which they came."""
        if not self.waiting:
            return
        with self._guard:
            self._look()
            admitted, stopped = self._admit_waiting()
            first = self._new_first() if self.rate is not None else None
        for slot in admitted:
            slot.wake()
        for slot in stopped:
            slot.nudge()
        if first is not None:
            first.nudge()

    def pause(self, slot: Slot) -> float:
        """Return after how many seconds a waiting slot looks again: the first of the queue when its turn has come."""
        left = self._next_start - time.monotonic()
        return min(left, _BEAT) if self._first == slot.key and left > 0 else _BEAT

    def lack(self) -> str:
        """Return what there is none of, as a message goes on after how long it was waited for."""
        if self.busy + 1 > self.room or self.rate is None:
            return f"none of {int(self.room)} calls at this place ended: raise max_concurrency"
        return f"no turn came, at {self.rate:g} calls per second: raise rate"

    def ended(self, error: BaseException | None) -> None:
        """Count a call as ended, well or not."""
        if isinstance(error, StoreError) and error.throttled:
            self.throttled()
        elif error is None:
            self.succeeded()

    def succeeded(self) -> None:
        """Say that a call was answered."""
        most = float("inf") if self.size is None else float(self.size)
        if self.room >= most:
            return
        with self._guard:
            self.room = min(most, self.room + 1 / self.room)
        self.settle()

    def throttled(self) -> None:
        """Say that a call was refused for there being too many."""
        with self._guard:
            now = time.monotonic()
            if now - self._halved > _CALM:
                self._halved = now
                self.room = max(1.0, min(self.room, max(self.busy, 1)) / 2)

    # -- with the guard held ------------------------------------------------------------------------------------------

    def _is_free(self) -> bool:
        turn = self.rate is None or time.monotonic() >= self._next_start
        return turn and len(self.held) + 1 <= self.room

    def _admit_waiting(self) -> tuple[list[Slot], list[Slot]]:
        """Return those admitted, and those whose event loop has stopped: they come back when it runs again."""
        admitted: list[Slot] = []
        stopped: list[Slot] = []
        while self.waiting and self._is_free():
            _, known = self.waiting.popitem(last=False)
            if (slot := known()) is None or 0 not in slot.parts:
                continue
            if slot.is_idle:
                stopped.append(slot)
            else:
                # A turn that was waited for is taken when it was due: how late the waiter woke costs no turns.
                self._admit(slot, self._next_start)
                admitted.append(slot)
        return admitted, stopped

    def _admit(self, slot: Slot, due: float) -> None:
        self.held[slot.key] = ref(slot)
        if self.rate is not None:
            # At most one turn that nobody took in time is made up for.
            self._next_start = max(due, time.monotonic() - 1 / self.rate) + 1 / self.rate

    def _new_first(self) -> Slot | None:
        """Return the slot that has become the first of the queue since the last look."""
        for key, known in self.waiting.items():
            if key == self._first:
                return None
            if (slot := known()) is not None:
                self._first = key
                return slot
        return None

    def _look(self) -> None:
        """Take back, now and then, what belongs to calls of event loops that are closed."""
        if self.rate is None and self.busy + 1 <= self.room:
            return
        now = time.monotonic()
        if now - self._looked > _BEAT / 2:
            self._looked = now
            self._drop_gone()

    def _drop_gone(self) -> None:
        for known in self.held.copy().values():
            if (slot := known()) is not None and slot.is_gone:
                slot.drop(0)


def is_number(value: object, kind: type[int | float], *, least: float) -> bool:
    """Return whether a value is a number of a kind, or an int where floats are asked for, and not too small."""
    return isinstance(value, kind | int) and not isinstance(value, bool) and value >= least


_limits: WeakValueDictionary[str, Limit] = WeakValueDictionary()
_guard = threading.Lock()


def limit_of(place: str, *, max_concurrency: int | None, rate: float | None) -> Limit:
    """Return this process's limit of a place.

    Parameters
    ----------
    place : str
        What shares one: a bucket, a database.
    max_concurrency : int or None
        How many calls may be under way.
    rate : float or None
        How many may begin per second.

    Raises
    ------
    StoreOptionError
        Numbers that are none.
    """
    if max_concurrency is not None and not is_number(max_concurrency, int, least=1):
        raise StoreOptionError(f"max_concurrency is a number of requests, 1 or more, or None, not {max_concurrency!r}")
    if rate is not None and not (is_number(rate, float, least=0) and rate > 0):
        raise StoreOptionError(f"rate is a number of requests per second, more than 0, or None, not {rate!r}")
    with _guard:
        limit = _limits.get(place)
        if limit is None:
            limit = _limits[place] = Limit()
    limit.restrict(max_concurrency, rate)
    return limit


def _after_fork() -> None:
    global _guard  # noqa: PLW0603  # another thread of the parent may have held it
    _guard = threading.Lock()
    for limit in list(_limits.values()):
        limit.forget()


on_fork(50, child=_after_fork)
