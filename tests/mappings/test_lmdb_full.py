"""LMDB where there is no room: a full file system, one that may not be written, a small address space."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lmdb_tables import KINDS, MIB
from tests.optional import require
from tests.processes import in_child
from zarrstream.errors import (
    StoreAccessError,
    StoreError,
    StoreFullError,
)

lmdb = require("lmdb")

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402
from zarrstream.mappings.shm import SharedMemoryMapping  # noqa: E402
from zarrstream.mappings.shm import folder as shm_folder  # noqa: E402  # where there is a driver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lmdb"


def mount(*arguments: str, program: str = "mount") -> bool:
    """Run the system's command, and return whether it could."""
    found = shutil.which(program)
    return bool(found) and subprocess.run([str(found), *arguments], check=False, capture_output=True).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A memory file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=8m,mode=1777", "tmpfs", str(folder)):
        pytest.skip("this user may not mount a small file system, so that none can be filled")
    yield folder
    assert mount("-l", str(folder), program="umount")  # also where a failed test has it open


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_file_system_is_told_with_its_size(kind: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error and no SIGBUS; nothing of the failed write is seen, and what was there stays."""
    monkeypatch.setattr(shm_folder, "MEMORY", str(small))
    mapping = SharedMemoryMapping("t") if kind == "shm" else LMDBMapping(small / "x", durability="off")
    mapping["k"] = bytes([1]) * MIB
    for write in (
        lambda: mapping.update({"k": b"2", "l": bytes(9 * MIB)}),
        lambda: mapping.update({f"m{number}": bytes(MIB) for number in range(9)}),
        lambda: [mapping.update({f"n{number}": bytes(MIB)}) for number in range(9)],
    ):
        with pytest.raises(StoreFullError, match=r"8,388,608 bytes") as caught:
            write()
        assert str(mapping.path) in str(caught.value)
        assert mapping["k"] == bytes([1]) * MIB
    assert all(mapping[f"n{number}"] == bytes(MIB) for number in range(len(mapping) - 1))
    mapping.clear()
    mapping["k"] = bytes(MIB)  # what was freed is room at once
    mapping.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_system_without_any_room_is_told(kind: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where not even the lock file has room, which is written to as memory."""
    monkeypatch.setattr(shm_folder, "MEMORY", str(small))
    descriptor = os.open(small / "filler", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, os.fstatvfs(descriptor).f_bavail * 4096)
    os.close(descriptor)
    mapping = SharedMemoryMapping("t") if kind == "shm" else LMDBMapping(small / "x")
    with pytest.raises(StoreFullError, match=r"8,388,608 bytes"):
        mapping["k"] = b"1"
    assert list(mapping) == []
    (small / "filler").unlink()
    mapping["k"] = b"1"
    mapping.close()
    assert mapping["k"] == b"1"
    mapping.close()


def test_the_map_does_not_grow_far_beyond_the_file_system(small: Path) -> None:
    """A batch that cannot fit is refused before the map would take the whole address space."""
    mapping = LMDBMapping(small / "x", map_size=MIB)
    mapping["k"] = b"1"
    with pytest.raises(StoreFullError, match=r"8,388,608 bytes"):
        mapping.update({f"{number}": bytes(MIB) for number in range(64)})
    assert mapping._share.environment.map_size <= 32 * MIB
    assert dict(mapping) == {"k": b"1"}
    mapping.close()


def test_a_read_only_file_system_is_read_and_says_so(small: Path) -> None:
    mapping = LMDBMapping(small / "x", durability="off")
    mapping["k"] = b"1"
    mapping.close()
    assert mount("-o", "remount,ro", str(small))
    assert (mapping["k"], list(mapping)) == (b"1", ["k"])
    with pytest.raises(StoreAccessError, match="writable"):
        mapping["k"] = b"2"
    with pytest.raises(StoreAccessError, match="writable"):
        LMDBMapping(small / "new")["k"] = b"2"
    assert mapping["k"] == b"1"
    mapping.close()


def test_an_address_space_that_is_too_small_is_told(path: Path) -> None:
    LMDBMapping(path)["k"] = b"1"

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
        with pytest.raises(StoreError, match="map_size"):
            LMDBMapping(path, map_size=4 << 30)["k"]
        assert LMDBMapping(path, map_size=MIB)["k"] == b"1"

    in_child(work)
