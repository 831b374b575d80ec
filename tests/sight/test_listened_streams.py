"""Streams that are listened to keep every promise of streams; and what listening costs can be measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import telemetry
from tests.optional import require

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it is a whole suite, beside other suites
def test_all_laws_of_streams_hold_where_an_sdk_listens() -> None:
    """The tests of streams pass as they do where nobody listens: order, bounds, errors, leaving, resuming, forks."""
    require("opentelemetry.sdk.metrics")
    command = [sys.executable, "-m", "pytest", "-p", "tests.sight.listening", "-p", "no:cacheprovider", "-q"]
    command += ["-m", "not slow", str(ROOT / "tests" / "streaming")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.slow
def test_the_benchmark_shows_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Wall and processor time of reading and writing, without an SDK, with one, and with one that takes no chunks."""
    require("opentelemetry.sdk.metrics")
    telemetry.main(["--rounds", "1", "--quick", "--only", "16 KiB, local", "--before", str(ROOT)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row[0]] == [f"{verb} zstd 16 KiB, local" for verb in ("read", "write")]
    assert [row[1] for row in rows] == 2 * ["before", "no SDK", "SDK, no chunk spans", "SDK"]
    assert all(float(row[2]) > 0 and float(row[4]) > 0 for row in rows)
    assert all(bool(row[3]) == bool(row[5]) == (row[1] != "before") for row in rows)
