"""The floors of the house: who may import whom, what an import may cost, and that the drawing shows what is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import zarrstream
from zarrstream import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zarrstream"
FILES = sorted(PACKAGE.rglob("*.py"))

#: The floors, lowest first. A module imports from lower floors and from its own room, never from a neighbour.
FLOORS = (
    {"errors", "signals"},
    {"concurrency", "identity", "urls"},
    {"notes"},
    {"telemetry"},
    {"mappings"},
    {"places"},
    {"filesystem", "stores", "streaming"},
    {"copying", "pipelines", "recorder", "timeline"},
    {"aio", "demo", "faults", "testing", "timeline_picture"},
    {"cli"},
    {"__init__"},
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
#: Packages that one file at most imports, on use: back ends' drivers, and the seams to other systems.
DRIVERS = {
    "adlfs",
    "aiobotocore",
    "botocore",
    "bson",
    "dbm",
    "gcsfs",
    "gridfs",
    "lmdb",
    "obstore",
    "psycopg",
    "pymongo",
    "rich",
    "s3fs",
    "sqlite3",
    "typer",
    "zstandard",
}
#: What `import zarrstream` may not load. (sqlite3 and dbm: not unless zarr or fsspec do.)
HEAVY = DRIVERS | {"dask", "distributed", "opentelemetry.sdk", "pytest", "xarray"}
ABSENT = (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever in it, by statement or by `import_module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (part.value for part in node.args[:1] if isinstance(part, ast.Constant))


def room(module: str) -> str:
    """Return the room under `zarrstream` that a full name leads to."""
    name = f"{module}.".split(".")[1]
    return name if name in HEIGHT else "__init__"


def name_of(path: Path) -> str:
    """Return a file's module name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_go_down(path: Path) -> None:
    """A file imports from its own room and from the floors below it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    assert parts[0] in HEIGHT, f"{parts[0]} has no floor: draw it in docs/architecture.md and give it one here"
    for module in imports(path):
        if module.partition(".")[0] == "zarrstream":
            target = room(module)
            assert target == parts[0] or HEIGHT[target] < HEIGHT[parts[0]], f"{path} imports {module}"


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_is_imported_in_one_file(driver: str) -> None:
    """What a driver needs to be told about is told in one place."""
    importers = [name_of(path) for path in FILES if any(module.split(".")[0] == driver for module in imports(path))]
    assert len(importers) <= 1, importers


def test_only_the_seam_knows_opentelemetry() -> None:
    """`telemetry.py` alone imports OpenTelemetry's API, and `recorder.py`, which the command line has, its SDK."""
    found = {(name_of(path), module) for path in FILES for module in imports(path) if "opentelemetry" in module}
    sdk = {name for name, module in found if module.startswith("opentelemetry.sdk")}
    assert sdk <= {"zarrstream.recorder"}
    assert {name for name, module in found if not module.startswith("opentelemetry.sdk")} - sdk <= {
        "zarrstream.telemetry"
    }


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(json.loads(result.stdout))


def test_the_import_loads_no_driver() -> None:
    """`import zarrstream` brings nothing that a user of another back end has to pay for."""
    ours = loaded_by("import zarrstream") - loaded_by("import zarr, fsspec")
    assert not ours & HEAVY


@pytest.mark.parametrize("folder", ["zarrstream", "tests"])
def test_no_file_is_long(folder: str) -> None:
    """One idea per file: none has more than 350 lines."""
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > 350}


def loaded(name: str) -> ModuleType | None:
    """Import a module of ours; None for a back end whose driver is not here, where it need not be."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in DRIVERS or (os.environ.get("CI") and "ZARRSTREAM_BARE" not in os.environ):
            raise
        return None


def exceptions() -> list[type[BaseException]]:
    """Return every exception class that the package defines, in whichever module."""
    modules = [loaded(name_of(path)) for path in FILES if path.stem != "testing"]
    classes = {value for module in modules if module for value in vars(module).values() if inspect.isclass(value)}
    ours = (
        value for value in classes if issubclass(value, BaseException) and value.__module__.startswith("zarrstream")
    )
    return sorted(ours, key=lambda error: error.__name__)


def test_no_error_of_ours_reads_as_absent() -> None:
    """zarr answers with fill values for these four; none of our errors is one, and users meet ZarrStreamErrors only."""
    found = exceptions()
    assert "ZarrStreamError" in {error.__name__ for error in found}
    assert not [error for error in found if issubclass(error, ABSENT)]
    public = [error for error in found if error.__module__ == errors.__name__ or error.__name__ in zarrstream.__all__]
    assert not [error for error in public if not issubclass(error, errors.ZarrStreamError)]


def test_every_public_name_is_there_and_documented() -> None:
    """`__all__` is sorted, and each of its names resolves, tells what it is and is offered by `dir`."""
    names = zarrstream.__all__
    assert names == sorted(set(names))
    assert set(names) <= set(dir(zarrstream))
    undocumented = [name for name in names if not inspect.getdoc(getattr(zarrstream, name))]
    assert not undocumented


def test_the_public_package_defines_nothing_itself() -> None:
    """`__init__` holds names: imports, `__all__`, and at most the two functions of lazy loading."""
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign, ast.AnnAssign, ast.FunctionDef)
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert all(isinstance(node, allowed) for node in body)
    assert {node.name for node in body if isinstance(node, ast.FunctionDef)} <= {"__dir__", "__getattr__"}


def test_every_module_is_found_and_says_what_it_is() -> None:
    """Each folder is a package, and each module opens with what it is for."""
    found = {"zarrstream", *(info.name for info in pkgutil.walk_packages(zarrstream.__path__, "zarrstream."))}
    assert found == {name_of(path) for path in FILES}
    assert not [path for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]


def drawn() -> set[str]:
    """Return the files in the drawing of docs/architecture.md, as paths in the package."""
    files, folders = set(), []
    for prefix, name in re.findall(r"^([│ ]*)[├└]── (\S+)", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE):
        folders = folders[: len(prefix) // 4]
        if name.endswith("/"):
            folders.append(name)
        else:
            files.add("".join(folders) + name)
    return files


def test_the_drawing_shows_the_files_that_are_there() -> None:
    """docs/architecture.md draws every module, and nothing that is not built; a folder stands for its `__init__`."""
    there = {path.relative_to(PACKAGE).as_posix() for path in FILES}
    assert drawn() == {path for path in there if not path.endswith("/__init__.py")}
