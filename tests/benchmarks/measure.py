"""How it is measured: all ways of a row in turn, the order alternating, the median of each, the values checked."""

from __future__ import annotations

import gc
import statistics
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from tests.benchmarks.reading import READING
from tests.benchmarks.sites import fill, make_values, new_site
from tests.benchmarks.slicing import SLICING
from tests.benchmarks.writing import WRITING, ignore

if TYPE_CHECKING:
    from tests.benchmarks.ways import Run, Use, Way
    from tests.benchmarks.works import Work

WAYS = {"read": READING, "write": WRITING, "slice": SLICING}


@dataclass
class Figures:
    """What one way took: so many items in each of these times."""

    count: int
    seconds: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Items per second, by the median time."""
        return self.count / statistics.median(self.seconds)


class WrongValuesError(AssertionError):
    """A way that is quick and wrong is no yardstick."""


class Bench(ABC):
    """Runs a row's ways."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.values = make_values(work)
        self.ways: list[Way] = [way for way in WAYS[work.verb] if way.fits(work)]

    @abstractmethod
    def time(self, way: Way, count: int, *, closely: bool = False) -> float:
        """Return the seconds that the first so many items take; check their first elements, or each one."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...


class ReadBench(Bench):
    """All ways read one array."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._stack = ExitStack()
        self._site = self._stack.enter_context(new_site(work, self.values))
        fill(self._site)
        self._runs: dict[str, Run] = {way.name: way.make(self._site) for way in self.ways}
        self._firsts = [self._site.item(number).item(0) for number in range(work.count)]

    def __exit__(self, *exception: object) -> None:
        self._runs.clear()
        self._stack.close()

    def time(self, way: Way, count: int, *, closely: bool = False) -> float:
        if closely:
            self._check_closely(way, count)
        seen: list[float] = []
        took = clock(self._runs[way.name], count, lambda item: seen.append(item.item(0)))
        if seen != self._firsts[:count]:
            raise WrongValuesError(f"{self.work.name}: {way.name} reads other values")
        return took

    def _check_closely(self, way: Way, count: int) -> None:
        numbers = iter(range(count))

        def compare(item: np.ndarray) -> None:
            expected = self._site.item(next(numbers)).ravel()
            if not np.array_equal(item.ravel(), expected[: item.size]):
                raise WrongValuesError(f"{self.work.name}: {way.name} reads other values")

        self._runs[way.name](count, compare)


class WriteBench(Bench):
    """Each way writes an array of its own, each time a new one: what was there before does not matter."""

    def __exit__(self, *exception: object) -> None:
        """Do nothing: each array went with its run."""

    def time(self, way: Way, count: int, *, closely: bool = False) -> float:
        with new_site(self.work, self.values) as site:
            took = clock(way.make(site), count, ignore)
            parts = [(0, count)] if closely else [(at, at + 1) for at in (0, count // 2, count - 1)]
            for part in parts:
                region = site.region(*part)
                if not np.array_equal(site.array[region], self.values[region]):
                    raise WrongValuesError(f"{self.work.name}: {way.name} writes other values")
        return took


def clock(run: Run, count: int, use: Use) -> float:
    """Return the seconds of one run; what was garbage before is not its to collect."""
    gc.collect()
    begin = time.perf_counter()
    run(count, use)
    return time.perf_counter() - begin


def measure(work: Work, *, rounds: int, seconds: float) -> dict[str, Figures]:
    """Measure one row: the figures of each way, ours first.

    Parameters
    ----------
    work : Work
        The row.
    rounds : int
        How often each way runs; every other round goes through them backwards.
    seconds : float
        About how long a run is to take: slow ways do as many items as they can in this time, at most the array.
    """
    with ReadBench(work) if work.verb != "write" else WriteBench(work) as bench:
        figures = {way.name: Figures(settle(bench, way, seconds)) for way in bench.ways}
        for turn in range(rounds):
            for way in reversed(bench.ways) if turn % 2 else bench.ways:
                result = figures[way.name]
                result.seconds.append(bench.time(way, result.count))
    return figures


def settle(bench: Bench, way: Way, seconds: float) -> int:
    """Check a way closely, and return how many items it is to be measured with."""
    step, most = bench.work.step, bench.work.count
    count = max(step, most // 64 // step * step)
    took = bench.time(way, count, closely=True)
    while took < seconds / 3 and count < most:
        count = min(4 * count, most)
        took = bench.time(way, count)
    return min(most, max(step, round(count * seconds / took / step) * step))
