"""What the documentation shows is run: every Python block, page by page, from top to bottom, in an empty folder.

A page that needs more than the bare package says so in a comment, ``<!-- requires: xarray dask -->``. One that needs a
server names its fixture, ``<!-- serves: postgresql -->``, and finds its URL in ``os.environ["ZARRSTREAM_POSTGRESQL"]``;
a cloud's is found by the variables that its clients know, and has a bucket ``my-data``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cloud_services import S3_SECRET, S3_USER
from tests.clouds import CLOUD_ROWS, azure_string
from tests.optional import require
from tests.programs import marks
from tests.services import mongodb_url, postgresql_url
from tests.sight.providers import give_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.programs import Server

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REQUIRES = re.compile(r"<!-- requires: (.+?) -->")
SERVES = re.compile(r"<!-- serves: (.+?) -->")
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)[^)]*\)")


def _s3(server: Server) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": S3_USER,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


#: What tells a page's code where a server is, by its fixture.
VARIABLES: dict[str, Callable[[Server], dict[str, str]]] = {
    "mongod": lambda server: {"ZARRSTREAM_MONGOD": mongodb_url(server)},
    "postgresql": lambda server: {"ZARRSTREAM_POSTGRESQL": postgresql_url(server)},
    "minio": _s3,
    "fake_gcs": lambda server: {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.port}"},
    "azurite": lambda server: {"AZURE_STORAGE_CONNECTION_STRING": azure_string(server.port)},
}


def services(page: Path) -> list[str]:
    """Return the fixtures of the servers that a page needs."""
    return " ".join(SERVES.findall(page.read_text())).split()


def serve(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a server, and tell the page's code where it is."""
    server: Server = request.getfixturevalue(name)
    for variable, value in VARIABLES[name](server).items():
        monkeypatch.setenv(variable, value)
    row = next((row for row in CLOUD_ROWS if row.service == name), None)
    if row is not None and server.port not in _with_bucket:
        row.make(server.port, "my-data")
        _with_bucket.add(server.port)


_with_bucket: set[int] = set()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=marks("".join(services(page))))
        for page in PAGES
        if BLOCK.search(page.read_text())
    ],
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
    for name in services(page):
        serve(name, request, monkeypatch)
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
