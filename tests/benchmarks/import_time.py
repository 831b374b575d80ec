"""How long `import zarrstream` takes beside `import zarr`: the design allows 10 % more.

Run ``python -m tests.benchmarks.import_time [--repeat 9] [--json FILE]``. Each import is timed in an interpreter of its
own, the two in turn, so that what else the machine does falls on both. Both come from compiled files, as installed
packages do, whatever the environment says of writing them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = ("zarr", "zarrstream")
PROGRAM = "import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"


def time_import(module: str, environment: dict[str, str]) -> float:
    """Return the seconds that a fresh interpreter takes to import a module."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def measure(repeat: int) -> dict[str, float]:
    """Return the median seconds of each module's import, and the second's ratio to the first's."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for module in MODULES:
            time_import(module, environment)  # compiles
        rounds = [[time_import(module, environment) for module in MODULES] for _ in range(repeat)]
    zarr, zarrstream = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"zarr": zarr, "zarrstream": zarrstream, "ratio": zarrstream / zarr}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write as JSON if asked."""
    parser = argparse.ArgumentParser(description="Time `import zarrstream` beside `import zarr`.")
    parser.add_argument("--repeat", type=int, default=9, help="imports of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="a file for the result")
    options = parser.parse_args(arguments)
    result = measure(options.repeat)
    print(f"import zarr        {result['zarr'] * 1000:7.1f} ms")
    print(f"import zarrstream  {result['zarrstream'] * 1000:7.1f} ms  (x {result['ratio']:.3f})")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
