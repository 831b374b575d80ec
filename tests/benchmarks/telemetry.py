"""What telemetry costs each row that is asked for: with no SDK beside a source tree from before, and with one.

``git worktree add /tmp/before COMMIT``, then ``python -m tests.benchmarks.telemetry --before /tmp/before``. Each tree
has a process of its own, and they run in turns, in alternating order: what else the machine does falls on all of them.
A figure is the median of the rounds, a ratio the median of the rounds' own. With ``TMPDIR`` in memory no disk is asked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.works import Work

ROOT = Path(__file__).parents[2]


def required_works(*, quick: bool) -> list[Work]:
    """Return the rows of which telemetry may cost two per cent."""
    from tests.benchmarks.required import REQUIRED
    from tests.benchmarks.works import every_work

    return [work for work in every_work(quick=quick) if work.name in REQUIRED]


@contextmanager
def ready(name: str, *, quick: bool) -> Iterator[Callable[[], None]]:
    """Make a row's array, and give what is timed: our way to do all of its work once."""
    from tests.benchmarks.measure import WAYS
    from tests.benchmarks.sites import fill, make_values, new_site
    from tests.benchmarks.ways import OURS

    work = next(work for work in required_works(quick=quick) if work.name == name)
    with new_site(work, make_values(work)) as site:
        fill(site)
        run = next(way for way in WAYS[work.verb] if way.name == OURS).make(site)

        def once() -> None:
            seen: list[float] = []
            run(work.count, lambda item: seen.append(item.item(0)))
            assert work.verb == "write" or seen == [site.item(number).item(0) for number in range(work.count)]

        yield once


def listen(chunks: bool) -> None:
    """Set providers, as an application does; spans go to a batch that nobody reads."""
    import zarr
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    zarr.config.set({"zarrstream.trace_chunks": chunks})


def serve(tree: str, row: str, sdk: str, *, quick: bool) -> None:
    """Do a row's work whenever the parent asks for it, and answer with wall and processor seconds."""
    sys.path[0] = tree
    import zarrstream

    assert str(zarrstream.__file__).startswith(tree), zarrstream.__file__
    sys.path[0] = str(ROOT)  # the yardstick is the same for all of them
    if sdk:
        listen(sdk == "chunks")
    with ready(row, quick=quick) as once:
        for _ in sys.stdin:
            begin, spent = time.perf_counter(), time.process_time()
            once()
            print(json.dumps([time.perf_counter() - begin, time.process_time() - spent]), flush=True)


class Tree:
    """A source tree in a process of its own.

    Parameters
    ----------
    path : Path
        The tree.
    row : str
        Whose work it does.
    quick : bool
        Whether it is a small one.
    sdk : str
        ``"chunks"`` or ``"metrics"`` where an SDK listens.
    """

    def __init__(self, path: Path, row: str, *, quick: bool, sdk: str = "") -> None:
        command = [sys.executable, __file__, "--serve", str(path), row, sdk, *(["--quick"] if quick else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=path)
        self.seconds: list[list[float]] = []

    def run(self, *, keep: bool) -> None:
        """Have it do its work once."""
        assert self._process.stdin
        assert self._process.stdout
        print("once more", file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if keep:
            self.seconds.append(answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def measure(trees: dict[str, Tree], rounds: int) -> None:
    """Let all run in turns."""
    for number in range(rounds + 2):
        order = list(trees.values())
        for tree in order[:: 1 if number % 2 else -1]:
            tree.run(keep=number > 1)


def show(work: Work, trees: dict[str, Tree]) -> None:
    """Print what each took for an item, and its ratio to the first, as rows of a table."""
    first = next(iter(trees.values()))
    for name, tree in trees.items():
        cells = []
        for what in range(2):
            own = [seconds[what] for seconds in tree.seconds]
            ratio = statistics.median(mine / its[what] for mine, its in zip(own, first.seconds, strict=True))
            cells.append(f"{statistics.median(own) / work.count * 1e6:.2f} | {'' if tree is first else f'{ratio:.3f}'}")
        print(f"| {work.name if tree is first else ''} | {name} | {' | '.join(cells)} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What telemetry costs a chunk.")
    parser.add_argument("--before", type=Path, help="a source tree to compare with")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="the rows whose name contains this")
    parser.add_argument("--quick", action="store_true", help="small arrays: shows that it works")
    parser.add_argument("--bare", action="store_true", help="leave out what has an SDK")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(*options.serve, quick=options.quick)
        return
    for work in required_works(quick=options.quick):
        if options.only not in work.name:
            continue
        tree = partial(Tree, row=work.name, quick=options.quick)
        trees = {"before": tree(options.before)} if options.before else {}
        trees["no SDK"] = tree(ROOT)
        if not options.bare:
            trees["SDK, no chunk spans"] = tree(ROOT, sdk="metrics")
            trees["SDK"] = tree(ROOT, sdk="chunks")
        measure(trees, options.rounds)
        show(work, trees)
        for each in trees.values():
            each.close()


if __name__ == "__main__":
    main()
