"""The benchmarks run; what they measure is not judged here, on whatever machine this is."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import import_time, memory, stores
from tests.benchmarks.measure import WAYS, WrongValuesError, measure
from tests.benchmarks.required import REQUIRED
from tests.benchmarks.ways import Way
from tests.benchmarks.works import KIB, Work, every_work

if TYPE_CHECKING:
    from tests.benchmarks.sites import Site
    from tests.benchmarks.ways import Run, Use
    from tests.programs import Server

ROOT = Path(__file__).parents[1]


def benchmark(*arguments: str) -> str:
    """Run the benchmark in a process of its own, where peers keep what they start, and return what it prints."""
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_time_prints_and_writes_its_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The import benchmark times both packages and writes what it prints."""
    import_time.main(["--repeat", "1", "--json", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ratio"] == result["zarrstream"] / result["zarr"]
    assert f"x {result['ratio']:.3f}" in capsys.readouterr().out


def test_memory_prints_and_writes_speed_and_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ways of each row are measured, in processes of their own."""
    monkeypatch.setattr(memory, "NBYTES", 8 << 20)
    monkeypatch.setattr(memory, "ROWS", {"none 256 KiB": memory.ROWS["none 256 KiB"]})
    memory.main(["--rounds", "1", "--json", str(tmp_path / "result.json")])
    [(name, ways)] = json.loads((tmp_path / "result.json").read_text()).items()
    assert all(speed > 0 for speed, _ in ways.values())
    assert f"{ways['with'][0]:,.0f}" in capsys.readouterr().out
    assert (name, set(ways)) == ("none 256 KiB", {"with", "without"})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_benchmark_runs_every_row(tmp_path: Path) -> None:
    """Each row is measured by ours and by zarr at least, checks its values, and is printed, written and drawn."""
    result = tmp_path / "result.json"
    plots = ["--plots", str(tmp_path)] if find_spec("matplotlib") else []
    printed = benchmark("--quick", "--json", str(result), *plots)
    rows = json.loads(result.read_text())["rows"]
    assert [row["name"] for row in rows] == [work.name for work in every_work(quick=True)]
    for row in rows:
        assert {"zarrstream", "zarr whole"} <= set(row["ways"])
        assert row["name"] in printed
    assert {path.name for path in tmp_path.glob("*.svg")} == ({"peers.svg", "chunk_size.svg"} if plots else set())


@pytest.mark.slow
@pytest.mark.server
def test_every_store_is_measured_beside_its_client(
    mongod: Server, postgresql: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each store gets and puts both sizes, as its bare client does, and each is a line of the table."""
    stores.main(["--quick", "--json", str(tmp_path / "result.json")])
    rows = json.loads((tmp_path / "result.json").read_text())
    assert {row["store"] for row in rows} == stores.PLACES.keys()
    assert len(rows) == 4 * len(stores.PLACES)
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)
    assert all(row["ratio"] == row["bare"] / row["ours"] > 0 for row in rows)


def test_every_required_ratio_belongs_to_a_row_and_a_way() -> None:
    """No ratio is asked for that nothing measures."""
    works = {work.name: work for work in every_work(quick=False)}
    measured_here = {row: ratios for row, ratios in REQUIRED.items() if "LMDB" not in row or find_spec("lmdb")}
    for row, ratios in measured_here.items():
        assert set(ratios) <= {way.name for way in WAYS[works[row].verb]}


def test_a_part_of_the_rows_is_measured_and_shown_again(tmp_path: Path) -> None:
    """A pattern selects rows by name, and a written result is shown as it was."""
    result = str(tmp_path / "result.json")
    printed = benchmark("--quick", "--only", "read zstd 16 KiB, SQLite", "--json", result)
    assert "zarr loop" in printed
    assert "zstd 1 MiB" not in printed
    assert benchmark("--load", result) == printed


@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_way_that_is_wrong_is_no_yardstick(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that reads or writes other values ends the benchmark, and is named."""

    def make(site: Site) -> Run:
        def run(count: int, use: Use) -> None:
            for number in range(count):
                use(site.item(number) + 1)

        return run

    monkeypatch.setitem(WAYS, verb, [Way("wrong", make)])
    with pytest.raises(WrongValuesError, match="wrong"):
        measure(Work(verb, "none", 16 * KIB, 4), rounds=1, seconds=0.001)
