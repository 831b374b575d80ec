"""`Retry`: how often, how long and after which failures a call is made again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from zarrstream.concurrency.deadline import call_until, remaining, until
from zarrstream.errors import MissingExtraError, StoreError, StoreOptionError, StoreTimeoutError
from zarrstream.places import is_there
from zarrstream.stores.limits import is_number
from zarrstream.stores.slots import call_within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from tenacity import RetryCallState

    from zarrstream.stores.slots import Slot

T = TypeVar("T")


class Call(Protocol):
    """What is called, as messages name it.

    Attributes
    ----------
    slot : Slot or None
        That of the last attempt.
    """

    slot: Slot | None

    def place(self) -> Slot:
        """Return what is entered around an attempt; how long that takes counts for the deadline alone."""

    def again(self, error: BaseException) -> None:
        """Be told of a failure that another attempt follows."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A policy for calls that fail.

    Parameters
    ----------
    attempts : int, optional
        How often a call is made at most; 1 is once.
    base, cap : float, optional
        Before attempt n + 1 it waits between 0 and ``min(cap, base * 2 ** (n - 1))`` seconds, evenly distributed:
        exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    deadline : float or None, optional
        How many seconds a call may take, all attempts and pauses included, by the caller's clock.
    attempt_timeout : float or None, optional
        How many seconds one attempt may take.

    Raises
    ------
    StoreOptionError
        A number that is none of these.
    MissingExtraError
        tenacity, which reckons the pauses, is not installed.

    Notes
    -----
    What is made again is decided by `passes`: `docs/cloud.md` has the tables. A cancelled or overdue request leaves
    nothing running on an event loop. A call in a thread cannot be interrupted: the time that is left is passed on to
    the database's driver, which ends it.
    """

    attempts: int = 5
    base: float = 0.1
    cap: float = 10.0
    deadline: float | None = 60.0
    attempt_timeout: float | None = 30.0

    def __post_init__(self) -> None:
        if not is_number(self.attempts, int, least=1):
            raise StoreOptionError(f"Retry(attempts=…) is a number, 1 or more, not {self.attempts!r}")
        for name in ("base", "cap"):
            if not is_number(value := getattr(self, name), float, least=0):
                raise StoreOptionError(f"Retry({name}=…) is in seconds, 0 or more, not {value!r}")
        for name in ("deadline", "attempt_timeout"):
            value = getattr(self, name)
            if value is not None and not (is_number(value, float, least=0) and value > 0):
                raise StoreOptionError(f"Retry({name}=…) is in seconds, more than 0, or None, not {value!r}")
        if not is_there("tenacity"):
            raise MissingExtraError("Retry needs the package 'tenacity': pip install 'zarrstream[retry]'")

    async def run(self, work: Callable[[], Awaitable[T]], call: Call) -> T:
        """Return what ``work`` returns, awaited as often as the policy allows.

        Parameters
        ----------
        work : callable
            One attempt.
        call : Call
            What is called.

        Raises
        ------
        StoreTimeoutError
            The deadline is over; ``__cause__`` is the last failure, where there was one.
        """
        failures: list[Exception] = []
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._left()) as total:
                with until(self.deadline):
                    try:
                        return await self._attempt(work, call)
                    except Exception as error:
                        if not passes(error):
                            raise
                        first = error
                    return await self._go_on(work, call, first, failures)
        except Exception as error:  # noqa: BLE001  # every one is raised again
            spent = time.monotonic() - started
            if isinstance(error, TimeoutError) and total.expired():
                raise self._overdue(call, len(failures) + 1, spent, failures) from (failures[-1] if failures else None)
            ended = self._ended(call, error, failures, spent)
            raise ended from ended.__cause__

    async def _go_on(
        self, work: Callable[[], Awaitable[T]], call: Call, first: Exception, failures: list[Exception]
    ) -> T:
        """Make the attempts after the first; tenacity, which costs as much as a small request, is only here."""
        from tenacity import AsyncRetrying

        async for attempt in AsyncRetrying(**self._rules(call, failures)):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                return await self._attempt(work, call)
        raise AssertionError("tenacity ends with a result or an error")  # pragma: no cover

    async def _attempt(self, work: Callable[[], Awaitable[T]], call: Call) -> T:
        async with call.place():
            try:
                async with asyncio.timeout(self.attempt_timeout) as limit:
                    with until(self.attempt_timeout):
                        return await work()
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise StoreTimeoutError(
                    f"{call} did not end within {self.attempt_timeout} s: raise Retry's attempt_timeout, "
                    f"or look at the network"
                ) from error.__context__

    def run_sync(self, work: Callable[[], T], call: Call) -> T:
        """Return what ``work`` returns, called as often as the policy allows. See `run`."""
        return call_until(self.deadline, partial(self._run_sync, work, call))

    def _run_sync(self, work: Callable[[], T], call: Call) -> T:
        failures: list[Exception] = []
        started = time.monotonic()
        try:
            try:
                return self._attempt_sync(work, call)
            except Exception as error:
                if not passes(error):
                    raise
                first = error
            return self._go_on_sync(work, call, first, failures)
        except Exception as error:  # noqa: BLE001  # as above
            ended = self._ended(call, error, failures, time.monotonic() - started)
            raise ended from ended.__cause__

    def _go_on_sync(self, work: Callable[[], T], call: Call, first: Exception, failures: list[Exception]) -> T:
        from tenacity import Retrying

        for attempt in Retrying(**self._rules(call, failures)):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                return self._attempt_sync(work, call)
        raise AssertionError("tenacity ends with a result or an error")  # pragma: no cover

    def _attempt_sync(self, work: Callable[[], T], call: Call) -> T:
        return call_within(call.place(), work, self.attempt_timeout)

    def _rules(self, call: Call, failures: list[Exception]) -> dict[str, Any]:
        """Return the policy in tenacity's words."""
        from tenacity import retry_if_exception, wait_random_exponential

        def failed(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            if isinstance(error, Exception):
                failures.append(error)
                call.again(error)

        def is_over(state: RetryCallState) -> bool:
            """Whether the deadline would be over before the next attempt began."""
            left = remaining()
            late = left is not None and left <= (state.upcoming_sleep or 0)
            return late or state.attempt_number >= self.attempts

        return {
            "stop": is_over,
            "wait": wait_random_exponential(multiplier=self.base, max=self.cap),
            "retry": retry_if_exception(passes),
            "before_sleep": failed,
            "reraise": True,
        }

    def _left(self) -> float | None:
        """Return how long a call may take: as the policy says, or as whoever calls us has left."""
        left = remaining()
        known = [seconds for seconds in (self.deadline, left) if seconds is not None]
        return min(known) if known else None

    def _ended(self, call: Call, error: Exception, failures: list[Exception], spent: float) -> Exception:
        """Return what the last failure becomes: itself, with how often it was tried, or an end before its time."""
        if passes(error) and len(failures) + 1 < self.attempts:  # another attempt would have begun too late
            overdue = self._overdue(call, len(failures) + 1, spent, [error])
            overdue.__cause__ = error
            return overdue
        if failures:
            error.add_note(f"after {len(failures) + 1} attempts; before it: {failures[-1]}")
        return error

    def _overdue(self, call: Call, attempts: int, spent: float, failures: list[Exception]) -> StoreTimeoutError:
        if call.slot is not None and call.slot.lacked:
            return StoreTimeoutError(f"{call}: within {spent:.3g} s {call.slot.lacked}, or Retry's deadline")
        last = f"; the last failure: {failures[-1]}" if failures else ""
        return StoreTimeoutError(
            f"{call} did not succeed within {spent:.3g} s and {attempts} attempts{last}. "
            f"Raise Retry's deadline, or look at the network and the server"
        )


def passes(error: BaseException) -> bool:
    """Return whether what failed may succeed a moment later.

    Throttling, failures at the server's side, lost connections, time-outs and bodies cut short pass; everything else
    is raised at once.
    """
    if isinstance(error, StoreError):
        return error.passes
    return isinstance(error, ConnectionError | TimeoutError)
