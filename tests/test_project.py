"""The project around the code: the README's promises, CI and the environments agree with each other."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CI = (ROOT / ".ci" / "run").read_text()
TALLY = ROOT / ".ci" / "tally.py"


def tox() -> configparser.RawConfigParser:
    """Read tox.ini."""
    config = configparser.RawConfigParser()
    config.read(ROOT / "tox.ini")
    return config


def readme_commands() -> list[str]:
    """Return the lines of the README's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    """A fresh machine is set up and tested with two commands, and CI runs these and no others."""
    commands = readme_commands()
    assert len(commands) == 2
    assert [
        line.removesuffix(" || status=1") for line in CI.splitlines() if line.startswith("python3 -m venv")
    ] == commands


def test_ci_adds_up_every_environment_that_tests() -> None:
    """The sum covers each environment of tox that runs pytest."""
    config = tox()
    environments = [name.strip() for name in config["tox"]["env_list"].split(",")]
    sections = {name: config[section] for name in environments if (section := f"testenv:{name}") in config}
    silent = {name for name, section in sections.items() if re.match(r"\s*(mypy|ruff)", section["commands"])}
    summed = re.search(r"tally\.py \.tox/junit (.*?) \|\|", CI)
    assert summed
    assert set(summed[1].split()) == set(environments) - silent


def test_the_oldest_zarr_that_is_promised_is_tested() -> None:
    """The lower bound of the dependency is what the oldest environment installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = (need for need in project["dependencies"] if need.startswith("zarr>"))
    oldest = bound.removeprefix("zarr>=").partition(",")[0]
    assert f"py311: zarr=={oldest}" in tox()["testenv"]["deps"]
    assert project["requires-python"] == ">=3.11"


def test_the_package_is_typed() -> None:
    """Type checkers are told to read the package's annotations."""
    assert (ROOT / "zarrstream" / "py.typed").exists()


def tally(folder: Path, *environments: str) -> subprocess.CompletedProcess[str]:
    """Run CI's last step."""
    command = [sys.executable, str(TALLY), str(folder), *environments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def write_report(path: Path, **counts: int) -> None:
    """Write what pytest would of so many tests."""
    attributes = " ".join(f'{name}="{count}"' for name, count in counts.items())
    path.write_text(f'<testsuites><testsuite name="pytest" {attributes}></testsuite></testsuites>')


def test_the_tally_is_an_honest_sum(tmp_path: Path) -> None:
    """Passed, failed and skipped tests of all environments are summed; errors are failures and fail CI."""
    write_report(tmp_path / "a.xml", tests=10, failures=1, errors=2, skipped=3)
    write_report(tmp_path / "b.xml", tests=5, failures=0, errors=0, skipped=0)
    result = tally(tmp_path, "a", "b")
    assert result.stdout.splitlines()[-1] == "9 passed, 3 failed, 3 skipped"
    assert result.returncode == 1
    result = tally(tmp_path, "b")
    assert result.stdout.splitlines()[-1] == "5 passed, 0 failed, 0 skipped"
    assert result.returncode == 0


@pytest.mark.parametrize("content", [None, "", "<testsuites><testsuite"])
def test_an_environment_that_reports_nothing_failed(tmp_path: Path, content: str | None) -> None:
    """An environment that never ran, or was killed while it wrote, is no success."""
    write_report(tmp_path / "a.xml", tests=5, failures=0, errors=0, skipped=0)
    if content is not None:
        (tmp_path / "b.xml").write_text(content)
    result = tally(tmp_path, "a", "b")
    assert result.stdout.splitlines()[-1] == "5 passed, 1 failed, 0 skipped"
    assert result.returncode == 1
