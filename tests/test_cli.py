"""The command line, as its users start it: a process of its own, in a pipe and on a terminal."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.optional import require
from zarrstream import cli

PROGRAM = [sys.executable, "-c", "from zarrstream.cli import main; main()"]


def run(*arguments: str, program: list[str] = PROGRAM) -> subprocess.CompletedProcess[str]:
    """Run the command line in a pipe."""
    return subprocess.run([*program, *arguments], check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture
def _installed() -> None:
    require("typer")
    require("rich")


def test_the_console_script_is_the_command_line() -> None:
    """What pip installs as `zarrstream` is `zarrstream.cli:main`."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="zarrstream")
    assert script.load() is cli.main


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_extra_is_told_with_its_command(module: str) -> None:
    """Without the extra there is no traceback but the line that installs it."""
    program = [
        sys.executable,
        "-c",
        f"import sys; sys.modules[{module!r}] = None; from zarrstream.cli import main; main()",
    ]
    result = run("stores", program=program)
    assert result.returncode == 1
    assert re.fullmatch(r".* needs (typer|rich): pip install 'zarrstream\[cli\]'\n", result.stderr)


@pytest.mark.usefixtures("_installed")
def test_the_version_is_that_of_the_package() -> None:
    """`zarrstream --version` names what is installed."""
    assert run("--version").stdout == f"zarrstream {importlib.metadata.version('zarrstream')}\n"


@pytest.mark.usefixtures("_installed")
def test_the_stores_are_listed() -> None:
    """`zarrstream stores` has a line for each store that is known."""
    lines = run("stores").stdout.splitlines()
    assert "sqlite" in [line.split()[0] for line in lines]
    assert all(re.fullmatch(r"\S+ +(installed|not installed|pip install '\S+') +\S.*", line) for line in lines)


@pytest.mark.usefixtures("_installed")
def test_the_demo_in_a_pipe_prints_plain_lines(tmp_path: Path) -> None:
    """No escape sequences, a line per quarter, and the report: numbers that add up."""
    result = run("demo", "--size", "30", "--store", f"sqlite:///{tmp_path}/mine.db")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "killed (SIGKILL) after 16 of 32 chunks" in result.stdout
    for line in ("write         16 of 32 chunks", "resume        32 of 32 chunks", "read back      8 of 32 chunks"):
        assert result.stdout.count(line) == 1
    report = dict(re.findall(r"^(store|array|in|out|killed|values)\s{2,}(.+)$", result.stdout, re.MULTILINE))
    assert report["store"] == f"sqlite:///{tmp_path}/mine.db (kept)"
    assert report["array"] == "32 chunks, 34 MB"
    assert report["values"] == "all equal to what was written"
    assert re.search(r"chunks written twice: [0-8]$", report["killed"])
    for way in ("in", "out"):
        assert re.fullmatch(r"\d+ MB/s, \d+\.\d\d ms per chunk, peak memory \d+ MB", report[way])


@pytest.mark.usefixtures("_installed")
def test_the_demo_on_a_terminal_shows_bars() -> None:
    """On a terminal there is a bar for each step, and the report at the end."""
    pty = pytest.importorskip("pty", reason="Windows has none")
    parent, child = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "CI", "COLUMNS"}}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen([*PROGRAM, "demo", "--size", "30"], stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        shown = read_terminal(parent)
    os.close(parent)
    assert process.returncode == 0, shown
    for step in ("write", "resume", "read back"):
        assert re.search(rf"{step}\s.*━+", shown)
    assert "\x1b[" in shown
    assert "100%" in shown
    assert "all equal to what was written" in shown


def read_terminal(descriptor: int) -> str:
    """Return all that a terminal shows until its program ends."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # Linux's way to say that the other side is closed
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--store", "sqlit:///x.db"], "zarrstream: "),
        (["demo", "--store", "memory://here"], "zarrstream: "),
        (["demo", "--store", "faulty+memory://here"], "lives in one process"),
        (["demo", "--trace-file", "{folder}/none/t.jsonl"], "No such file or directory: '{folder}/none/t.jsonl'"),
        (["demo", "--trace-picture", "{folder}/none/t.svg"], "No such file or directory: '{folder}/none/t.svg'"),
        (["demo", "--trace-file", "{folder}"], "Is a directory: '{folder}'"),
        (["demo", "--size", "0"], "--size"),
        (["demmo"], "demmo"),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    """A mistake ends with a message and a failure, not with a traceback."""
    result = run(*(argument.format(folder=tmp_path) for argument in arguments))
    assert result.returncode != 0
    assert told.format(folder=tmp_path) in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.usefixtures("_installed")
def test_a_full_disk_under_the_output_is_told_in_a_line(unbuffered: str) -> None:
    """What cannot be printed is a failure in a line, whether or not some of it is still in a buffer then."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*PROGRAM, "stores"], check=False, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert result.returncode == 1
    assert result.stderr == "zarrstream: No space left on device\n"


@pytest.mark.slow
@pytest.mark.usefixtures("_installed")
def test_the_demo_takes_less_than_half_a_minute() -> None:
    """At its default size the main job is done within 30 seconds."""
    begin = time.perf_counter()
    result = run("demo")
    assert result.returncode == 0, result.stderr
    assert time.perf_counter() - begin < 30
