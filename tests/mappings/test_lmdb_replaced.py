"""An LMDB file that is put in the place of one which another process has open."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.optional import require
from zarrstream.errors import StoreUnavailableError

require("lmdb")

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402  # once the driver is there

if TYPE_CHECKING:
    from pathlib import Path

_HOLDER = """
import sys
from zarrstream.mappings.lmdb import LMDBMapping
mapping = LMDBMapping(sys.argv[1])
mapping["k0"]
print("open", flush=True)
input()
"""


def filled(path: Path, commits: int) -> None:
    mapping = LMDBMapping(path, durability="off")
    for number in range(commits):
        mapping[f"k{number % 3}"] = b"%d" % number
    mapping.close()


@pytest.mark.parametrize(("old", "new"), [(5, 40), (5, 41), (40, 5), (5, 6), (6, 5), (5, 5)])
def test_a_file_under_another_files_lock_is_read_as_it_is_or_refused(old: int, new: int, tmp_path: Path) -> None:
    """LMDB believes the lock file, which tells of the old one: of the new one an old state, and writes to be lost."""
    filled(tmp_path / "x", old)
    filled(tmp_path / "y", new)
    expected = dict(LMDBMapping(tmp_path / "y"))
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        (tmp_path / "y/data.mdb").replace(tmp_path / "x/data.mdb")
        mapping = LMDBMapping(tmp_path / "x", durability="full")
        if old == new:
            mapping["new"] = b"1"
            expected["new"] = b"1"
            assert dict(mapping) == expected
        else:
            for ask in (lambda: dict(mapping), lambda: mapping.update(new=b"1")):
                with pytest.raises(StoreUnavailableError, match=r"another data\.mdb .*: close the store there"):
                    ask()
        holder.stdin.write("\n")
    assert dict(mapping) == expected
    mapping["after"] = b"2"
    mapping.close()
    assert dict(LMDBMapping(tmp_path / "x")) == {**expected, "after": b"2"}
