"""What telemetry costs a stream: with no SDK beside a source tree from before, and with one.

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
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
COUNT, SIDE = 4096, 64  # chunks of 16 KiB of float32
VERBS = ("read", "write")


def work(folder: str, count: int) -> dict[str, Callable[[], None]]:
    """Return what is timed, on an array that is made here."""
    import numpy as np
    import zarr
    from zarr.codecs import ZstdCodec

    from zarrstream import stream_chunks, write_stream

    def create(name: str) -> Any:
        shape, chunks = (count * SIDE, SIDE), (SIDE, SIDE)
        codec = ZstdCodec(level=1)
        return zarr.create_array(
            folder, name=name, shape=shape, chunks=chunks, dtype="f4", compressors=codec, overwrite=True
        )

    walk = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype("f4")
    block = np.round(np.cumsum(walk, axis=1), 2) + 1

    def fill(array: Any) -> None:
        write_stream(array, (((number, 0), block) for number in range(count)))

    there, target = create("there"), create("target")
    fill(there)
    fill(target)

    def read() -> None:
        for chunk in stream_chunks(there):
            assert chunk.data[0, 0] == block[0, 0]

    return {"read": read, "write": lambda: fill(target)}


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


def serve(tree: str, count: str, sdk: str) -> None:
    """Run what the parent asks for, and answer with wall and processor seconds."""
    sys.path.insert(0, tree)
    import zarrstream

    assert str(zarrstream.__file__).startswith(tree), zarrstream.__file__
    if sdk:
        listen(sdk == "chunks")
    with tempfile.TemporaryDirectory() as folder:
        runs = work(folder, int(count))
        for line in sys.stdin:
            begin, spent = time.perf_counter(), time.process_time()
            runs[line.strip()]()
            print(json.dumps([time.perf_counter() - begin, time.process_time() - spent]), flush=True)


class Tree:
    """A source tree in a process of its own.

    Parameters
    ----------
    path : Path
        The tree.
    count : int
        Chunks.
    sdk : str
        ``"chunks"`` or ``"metrics"`` where an SDK listens.
    """

    def __init__(self, path: Path, count: int, sdk: str = "") -> None:
        command = [sys.executable, __file__, "--serve", str(path), str(count), sdk]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=path)
        self.seconds: dict[str, list[list[float]]] = {verb: [] for verb in VERBS}

    def run(self, verb: str, *, keep: bool) -> None:
        """Have it do its work once."""
        assert self._process.stdin
        assert self._process.stdout
        print(verb, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if keep:
            self.seconds[verb].append(answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def measure(trees: dict[str, Tree], rounds: int) -> None:
    """Let all run in turns."""
    for number in range(rounds + 2):
        order = list(trees.values())
        for verb in VERBS:
            for tree in order[:: 1 if number % 2 else -1]:
                tree.run(verb, keep=number > 1)


def show(trees: dict[str, Tree], count: int) -> None:
    """Print what each took for a chunk, and its ratio to the first."""
    first = next(iter(trees.values()))
    for verb in VERBS:
        for name, tree in trees.items():
            columns = []
            for what in range(2):
                own = [seconds[what] for seconds in tree.seconds[verb]]
                pairs = zip(own, (seconds[what] for seconds in first.seconds[verb]), strict=True)
                ratio = statistics.median(mine / its for mine, its in pairs)
                columns.append(f"{statistics.median(own) / count * 1e6:8.2f} us  x {ratio:.3f}")
            print(f"{verb:6} {name:22} wall {columns[0]}   processor {columns[1]}")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What telemetry costs a chunk.")
    parser.add_argument("--before", type=Path, help="a source tree to compare with")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--count", type=int, default=COUNT, help="chunks (default: %(default)s)")
    parser.add_argument("--bare", action="store_true", help="leave out what has an SDK")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(*options.serve)
        return
    trees = {"before": Tree(options.before, options.count)} if options.before else {}
    trees["no SDK"] = Tree(ROOT, options.count)
    if not options.bare:
        trees["SDK, no chunk spans"] = Tree(ROOT, options.count, "metrics")
        trees["SDK"] = Tree(ROOT, options.count, "chunks")
    measure(trees, options.rounds)
    show(trees, options.count)
    for tree in trees.values():
        tree.close()


if __name__ == "__main__":
    main()
