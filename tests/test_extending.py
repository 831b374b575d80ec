"""The store that `docs/extending.md` builds is a package, is found by its entry point, and keeps the contract."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.programs import Server

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "zarrstream_redis.py", "test_zarrstream_redis.py")
BLOCK = re.compile(r"^```(?:toml|py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What the page leaves to the reader: the runner, and what `zarrstream.testing` needs.
RUNNER = ("pytest", "pytest-asyncio", "hypothesis")


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(600)
def test_the_page_makes_a_package_that_keeps_the_contract(redis_server: Server, tmp_path: Path) -> None:
    """Installed into a clean environment beside zarrstream, its own tests pass there, none skipped."""
    package = tmp_path / "package"
    package.mkdir()
    blocks = BLOCK.findall((ROOT / "docs" / "extending.md").read_text())
    for name, block in zip(FILES, blocks, strict=True):
        (package / name).write_text(block)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT, package, *RUNNER]
    subprocess.run(install, check=True, cwd=tmp_path)
    run = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", package / FILES[2]],
        check=False,
        capture_output=True,
        text=True,
        cwd=package,
        env={"PATH": str(python.parent), "REDIS_URL": f"redis://127.0.0.1:{redis_server.port}/15"},
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert re.search(r"^\d+ passed in", run.stdout, re.MULTILINE), run.stdout[-500:]
