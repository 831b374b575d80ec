"""The benchmark: zarrstream beside the naive limit, zarr, zarrs, dask, TensorStore and obstore, as far as installed.

Run ``python -m tests.benchmarks [--quick] [--only PATTERN] [--rounds 7] [--json FILE] [--plots [FOLDER]]``. It judges
nothing; docs/benchmarks.md says what it is for, and shows the last figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.measure import measure
from tests.benchmarks.works import every_work

ROUNDS, QUICK_ROUNDS = 7, 1
SECONDS, QUICK_SECONDS = 0.15, 0.005
IMAGES = Path("docs/images")


def main(arguments: list[str] | None = None) -> None:
    """Measure, or load what was measured; print, write and draw as asked."""
    options = parse(arguments)
    result = load(options.load) if options.load else run(options)
    if options.load:
        for row in result["rows"]:
            print(report.table(row))
    print(report.summary(result["rows"]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plots:
        from tests.benchmarks.plots import draw

        draw(result["rows"], options.plots)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="zarrstream beside its peers.")
    parser.add_argument("--quick", action="store_true", help="small arrays and one round: shows that it works")
    parser.add_argument("--only", metavar="PATTERN", default="", help="rows whose name has this regular expression")
    parser.add_argument("--rounds", type=int, help=f"runs of each way (default: {ROUNDS}; quick: {QUICK_ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"length of a run (default: {SECONDS}; quick: {QUICK_SECONDS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the result")
    parser.add_argument(
        "--load", type=Path, metavar="FILE", nargs="+", help="measure nothing, show these results; a later row counts"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", nargs="?", const=IMAGES, help=f"draw, by default into {IMAGES}"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the rows that are asked for, and print each as it is done."""
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    gc.freeze()  # the modules stay: collecting before each run is quick
    rows = []
    for work in every_work(quick=options.quick):
        if re.search(options.only, work.name):
            rows.append(report.row(work, measure(work, rounds=rounds, seconds=seconds)))
            print(report.table(rows[-1]), flush=True)
    return {**report.describe(), "rounds": rounds, "rows": rows}


def load(files: list[Path]) -> dict[str, Any]:
    """Read results that were written; a row of a later file takes the place of an earlier file's."""
    results = [json.loads(file.read_text()) for file in files]
    rows = {row["name"]: row for result in results for row in result["rows"]}
    return {**results[0], "rows": list(rows.values())}


if __name__ == "__main__":
    main()
