"""What the documentation shows is run: every Python block, page by page, from top to bottom, in an empty folder.

A page that needs more than the bare package says so in a comment, ``<!-- requires: xarray dask -->``. One that needs a
server names its fixture, ``<!-- serves: postgresql -->``, and finds its URL in ``os.environ["ZARRSTREAM_POSTGRESQL"]``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.optional import require
from tests.programs import marks, servers
from tests.services import mongodb_url, postgresql_url
from tests.sight.providers import give_back

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REQUIRES = re.compile(r"<!-- requires: (.+?) -->")
SERVES = re.compile(r"<!-- serves: (\w+) -->")
#: The URL at which a server is found, by its fixture.
URLS = {"mongod": mongodb_url, "postgresql": postgresql_url}
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)[^)]*\)")


def service(page: Path) -> str | None:
    """Return the fixture of the server that a page needs."""
    found = SERVES.search(page.read_text())
    return found and found[1]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=marks(service(page))) for page in PAGES if BLOCK.search(page.read_text())],
)
def test_the_python_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each block runs after the blocks above it, and an error points at its line of the page."""
    text = page.read_text()
    for module in " ".join(REQUIRES.findall(text)).split():
        require(module)
    if "opentelemetry" in text:
        give_back(monkeypatch)
    for server in servers(name := service(page), request):
        monkeypatch.setenv(f"ZARRSTREAM_{name}".upper(), URLS[str(name)](server))
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], page, "exec"), names)  # noqa: S102 - that is what this test is for


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there."""
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert not broken
