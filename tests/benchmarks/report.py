"""What was measured, as a table and as JSON: each required ratio beside the measured one, none of them judged."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tests.benchmarks.required import required
from tests.benchmarks.ways import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.measure import Figures
    from tests.benchmarks.works import Work

PACKAGES = ("zarrstream", "zarr", "numcodecs", "numpy", "zarrs", "dask", "tensorstore", "obstore")


def describe() -> dict[str, Any]:
    """Tell what the figures depend on, and nothing that names the machine."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "packages": {name: number for name in PACKAGES if (number := version_of(name))},
    }


def version_of(package: str) -> str | None:
    """Return a package's version, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def row(work: Work, figures: dict[str, Figures]) -> dict[str, Any]:
    """Turn a row's figures into what the JSON file has of it."""
    ours = figures[OURS].per_second
    ways = {
        name: {
            "per_second": result.per_second,
            "ratio": ours / result.per_second,
            "required": required(work.name, name),
            "count": result.count,
            "seconds": result.seconds,
        }
        for name, result in figures.items()
    }
    facts = {"verb": work.verb, "codec": work.codec, "nbytes": work.nbytes, "place": work.place}
    return {"name": work.name, "unit": work.unit, **facts, "per_shard": work.per_shard, "ways": ways}


def table(result: dict[str, Any]) -> str:
    """Write one row's lines."""
    unit = f"{result['unit']}/s"
    lines = ["", f"{result['name']:<34}{unit:>10}{'MB/s':>9}{'ours / it':>11}{'at least':>10}"]
    for name, way in result["ways"].items():
        speed = way["per_second"]
        line = f"  {name:<32}{speed:>10,.0f}{speed * result['nbytes'] / 1e6:>9,.0f}"
        if name != OURS:
            line += f"{way['ratio']:>11.2f}" + ("" if way["required"] is None else f"{way['required']:>10.2f}")
        lines.append(line)
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """Write the required ratios beside the measured ones."""
    head = f"{'ours / it':<50}{'':<26}{'at least':>9}{'measured':>10}"
    return "\n".join(["", head, *summary_lines(rows)])


def summary_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each required ratio whose peer was measured."""
    for result in rows:
        for name, way in result["ways"].items():
            if way["required"] is not None:
                yield f"{result['name']:<50}{name:<26}{way['required']:>9.2f}{way['ratio']:>10.2f}"
