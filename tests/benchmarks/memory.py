"""What it brings that malloc keeps the pages of a stream's chunks: with and without, in turns, in a new process each.

Run ``python -m tests.benchmarks.memory [--rounds 7] [--json FILE]``. In a process that measures several ways, as the
other benchmarks do, the first large array that is freed has the same effect for all that follow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

#: Side of a chunk of float32, and its compressor.
ROWS: dict[str, tuple[int, Any]] = {
    f"{name} {size}": (side, compressors)
    for size, side in (("16 KiB", 64), ("256 KiB", 256), ("1 MiB", 512))
    for name, compressors in (("none", None), ("zstd", "auto"))
}
NBYTES = 256 << 20
PROGRAM = """
import resource, sys, time
import zarr
from zarrstream import stream_chunks
from zarrstream.streaming.engine import memory
if sys.argv[2] == "without":
    memory.keep = lambda nbytes: None
array = zarr.open_array(sys.argv[1], mode="r")
for _ in range(3):
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    count = sum(1 for chunk in stream_chunks(array))
print(count / (time.perf_counter() - began), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count)
"""


def stored(folder: Path, side: int, compressors: Any) -> str:
    """Write an array, and return its path."""
    count = NBYTES // (4 * side * side)
    noise = np.random.default_rng(5).integers(0, 256, (count * side, side)).astype("f4")
    array = zarr.create_array(str(folder), shape=noise.shape, chunks=(side, side), dtype="f4", compressors=compressors)
    array[:] = np.arange(count * side, dtype="f4")[:, None] + noise / 256
    return str(folder)


def third_pass(place: str, way: str) -> list[float]:
    """Return the chunks per second, and the page faults per chunk, of a new process's third pass."""
    command = [sys.executable, "-c", PROGRAM, place, way]
    return [float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return, for each row and way, the medians of speed and faults."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (side, compressors) in ROWS.items():
            place = stored(Path(folder, name.replace(" ", "-")), side, compressors)
            passes: dict[str, list[list[float]]] = {"with": [], "without": []}
            for turn in range(rounds):
                for way in list(passes)[:: 1 if turn % 2 else -1]:
                    passes[way].append(third_pass(place, way))
            found[name] = {
                way: [statistics.median(column) for column in zip(*taken, strict=True)] for way, taken in passes.items()
            }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    print(f"{'chunks':14}{'chunks/s':>10}{'without':>10}{'ratio':>8}{'faults/chunk':>14}{'without':>10}")
    for name, ways in found.items():
        (speed, faults), (bare, bare_faults) = ways["with"], ways["without"]
        print(f"{name:14}{speed:10,.0f}{bare:10,.0f}{speed / bare:8.2f}{faults:14.1f}{bare_faults:10.1f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
