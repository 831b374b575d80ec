"""A limit of the process is told as one: the disk is not to blame, and the remedy is another."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.optional import require

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = """
import os, resource, sys
from zarrstream.errors import StoreError
from zarrstream.mappings.{module} import {name} as Mapping

mapping = Mapping(sys.argv[1])
mapping["before"] = b"1"
if sys.argv[2] == "size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, resource.RLIM_INFINITY))
else:
    mapping.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
try:
    mapping["k"] = bytes(16 << 20)
except StoreError as error:
    print(type(error).__name__, error)
if sys.argv[2] == "size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    for descriptor in held:
        os.close(descriptor)
assert dict(mapping) == {{"before": b"1"}}
mapping["k"] = b"2"
assert mapping["k"] == b"2"
mapping.close()
"""
MAPPINGS = {
    "sqlite": ("sqlite", "SQLiteMapping", "sqlite3"),
    "lmdb": ("lmdb", "LMDBMapping", "lmdb"),
    "zip": ("zip", "ZipMapping", "zipfile"),
}


# Of an archive the size is met by its law of system calls.
@pytest.mark.parametrize(
    ("mapping", "kind"),
    [("sqlite", "size"), ("sqlite", "files"), ("lmdb", "size"), ("lmdb", "files"), ("zip", "files")],
)
def test_a_limit_of_the_process_is_named(mapping: str, kind: str, tmp_path: Path) -> None:
    """Nothing of the failed write is there, and when the limit is gone the store works on."""
    pytest.importorskip("resource", reason="Windows has none")
    module, name, driver = MAPPINGS[mapping]
    require(driver)
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(module=module, name=name), str(tmp_path / "x"), kind],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ("ulimit -f" if kind == "size" else "ulimit -n") in result.stdout, result.stdout + result.stderr
    assert "check the disk" not in result.stdout


def test_a_name_too_long_for_the_files_beside_it_is_told(tmp_path: Path) -> None:
    """SQLite cannot make its journal then."""
    from zarrstream.errors import StoreOptionError
    from zarrstream.mappings.sqlite import SQLiteMapping

    mapping = SQLiteMapping(tmp_path / ("x" * 250))
    with pytest.raises(StoreOptionError, match="shorten it by 8 bytes"):
        mapping["k"] = b"1"
    mapping.close()
