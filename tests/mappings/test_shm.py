"""Tables in shared memory: names, whose they are, where they lie, and when they go."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lmdb_tables import descriptors
from tests.optional import require
from tests.processes import in_child
from zarrstream import StoreAccessError, StoreOptionError, StoreUnavailableError

require("lmdb")

from zarrstream.mappings.shm import SharedMemoryMapping  # noqa: E402
from zarrstream.mappings.shm import folder as shm_folder  # noqa: E402  # where there is a driver

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME = Path(f"/dev/shm/zarrstream-{os.geteuid()}")  # noqa: S108  # looked at


@pytest.fixture
def table(shm_name: str) -> Iterator[SharedMemoryMapping]:
    made = SharedMemoryMapping(shm_name)
    yield made
    made.destroy()


# -- names and places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/a",
        "a\\b",
        ".hidden",
        "-a",
        "a b",
        "a\0",
        "é",
        "a\n",
        "x" * 101,
        "~",
        "%2e",
        None,
    ],
)
def test_a_name_that_is_a_path_trick_is_refused(name: Any) -> None:
    with pytest.raises(StoreOptionError, match="table in shared memory is named"):
        SharedMemoryMapping(name)


def test_a_name_of_a_hundred_letters_works(shm_name: str) -> None:
    table = SharedMemoryMapping(shm_name.ljust(100, "x"))
    table["k"] = b"1"
    assert table.name == shm_name.ljust(100, "x")
    table.destroy()


def test_it_lies_in_the_memory_file_system_for_its_user_alone(table: SharedMemoryMapping) -> None:
    table["k"] = b"1"
    assert table.path == HOME / table.name
    assert [stat.S_IMODE(path.stat().st_mode) for path in (HOME, table.path)] == [0o700, 0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in table.path.iterdir()} == {0o600}
    flags = table._share.environment.handle.flags()  # type: ignore[union-attr]
    assert not flags["writemap"]
    assert not flags["sync"]


def test_its_place_is_of_this_machine_since_its_start(table: SharedMemoryMapping) -> None:
    """A checkpoint of it is believed neither on another machine, nor after the next start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert table.place == f"shm://{table.name}?user={os.geteuid()}&host={os.uname().nodename}&boot={boot}"
    assert SharedMemoryMapping(table.name) == table


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may make a folder in /dev/shm under the name that this user's will have."""
    monkeypatch.setattr(shm_folder, "MEMORY", str(tmp_path))
    home = tmp_path / HOME.name
    home.mkdir(0o755)
    home.chmod(0o755)
    with pytest.raises(StoreAccessError, match="0700"):
        SharedMemoryMapping("t")["k"] = b"1"
    with pytest.raises(StoreAccessError, match="0700"):
        SharedMemoryMapping("t", owner=True)
    home.rmdir()
    home.symlink_to(tmp_path)
    with pytest.raises(StoreAccessError, match="remove it"):
        SharedMemoryMapping("t")["k"] = b"1"


def test_users_do_not_collide(shm_name: str) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    table = SharedMemoryMapping(shm_name)
    table["k"] = b"root's"

    def work() -> None:
        os.setgid(65534)
        os.setuid(65534)
        other = SharedMemoryMapping(shm_name)
        assert "k" not in other
        other["k"] = b"nobody's"
        assert other["k"] == b"nobody's"
        assert other.path.parent.name == "zarrstream-65534"
        other.destroy()

    in_child(work)
    assert table["k"] == b"root's"
    table.destroy()


def test_where_there_is_no_memory_file_system_it_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_folder, "MEMORY", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(UserWarning, match=f"kept in {tmp_path}"):
        table = SharedMemoryMapping("t")
    table["k"] = b"1"
    assert table.path == tmp_path / HOME.name / "t"
    table.destroy()
    assert not list(tmp_path.iterdir())


# -- until it is destroyed --------------------------------------------------------------------------------------------


def test_it_outlives_its_processes(table: SharedMemoryMapping) -> None:
    """Without an owner it lives on: closed, dropped, its writer gone."""

    def work() -> None:
        SharedMemoryMapping(table.name)["k"] = b"1"

    in_child(work)
    assert table["k"] == b"1"
    table.close()
    gc.collect()
    assert SharedMemoryMapping(table.name)["k"] == b"1"


def test_reading_makes_nothing(table: SharedMemoryMapping) -> None:
    assert (list(table), "k" in table, bool(table)) == ([], False, False)
    assert not table.path.exists()


def test_destroy_removes_it_and_the_next_write_begins_anew(table: SharedMemoryMapping) -> None:
    table["k"] = b"1"
    other, copy = SharedMemoryMapping(table.name), pickle.loads(pickle.dumps(table))
    assert other["k"] == b"1"
    table.destroy()
    assert not table.path.exists()
    assert descriptors(table) == 0
    assert list(table) == []
    for lost in (other, copy):  # what was there is never read as "not stored"
        with pytest.raises(StoreUnavailableError, match="gone"):
            lost["k"]
        with pytest.raises(StoreUnavailableError, match="gone"):
            lost["k"] = b"2"
        lost.close()
        assert "k" not in lost
    table.destroy()
    table["k"] = b"2"
    assert other["k"] == b"2"


def test_what_another_process_destroys_is_gone_here(table: SharedMemoryMapping) -> None:
    """Not at once where a value was just read, but never for long; and at once for whatever writes."""
    table["k"] = b"1"
    assert table["k"] == b"1"
    in_child(lambda: SharedMemoryMapping(table.name).destroy())
    with pytest.raises(StoreUnavailableError, match="gone"):
        table["l"] = b"2"
    with pytest.raises(StoreUnavailableError, match="gone"):
        table["k"]
    with pytest.raises(StoreUnavailableError, match="gone"):
        list(table)


def test_a_table_that_replaces_another_is_read(table: SharedMemoryMapping) -> None:
    table["k"] = b"1"
    assert table["k"] == b"1"

    def work() -> None:
        other = SharedMemoryMapping(table.name)
        other.destroy()
        other["l"] = b"2"

    in_child(work)
    assert table["l"] == b"2"
    with pytest.raises(KeyError):
        table["k"]


def test_what_is_left_of_a_removal_that_was_killed_is_no_table(table: SharedMemoryMapping) -> None:
    """data.mdb goes first; a folder without it reads as empty, and is written anew."""
    table["k"] = b"1"
    table._share.close()
    (table.path / "data.mdb").unlink()
    assert list(table) == []
    table["l"] = b"2"
    assert dict(table) == {"l": b"2"}
    table._share.close()
    shutil.rmtree(table.path)
    assert list(table) == []
