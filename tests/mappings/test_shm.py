"""Tables in shared memory: names, whose they are, where they lie, and when they go."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lmdb_tables import descriptors, forked
from tests.optional import require
from tests.processes import METHODS, in_child, run
from zarrstream import MappingStore, StoreAccessError, StoreOptionError, StoreUnavailableError

require("lmdb")

from zarrstream.mappings import shm_folder  # noqa: E402  # where there is a driver
from zarrstream.mappings.shm import SharedMemoryMapping  # noqa: E402

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


# -- owners -----------------------------------------------------------------------------------------------------------


def test_the_last_owner_to_close_removes_it(shm_name: str) -> None:
    first, second = SharedMemoryMapping(shm_name, owner=True), SharedMemoryMapping(shm_name, owner=True)
    guest = SharedMemoryMapping(shm_name)
    guest["k"] = b"1"
    guest.close()
    first.close()
    assert guest["k"] == second["k"] == b"1"
    second.close()
    second.close()
    assert not (HOME / shm_name).exists()
    with pytest.raises(StoreUnavailableError, match="gone"):
        guest["k"]
    guest.close()
    assert "k" not in guest


def test_an_owner_that_goes_on_after_close_owns_again(shm_name: str) -> None:
    table = SharedMemoryMapping(shm_name, owner=True)
    table["k"] = b"1"
    table.close()
    assert "k" not in table
    table["k"] = b"2"
    assert dict(table) == {"k": b"2"}
    table.close()
    assert not (HOME / shm_name).exists()


def test_an_owner_that_is_dropped_removes_it(shm_name: str) -> None:
    table = SharedMemoryMapping(shm_name, owner=True)
    table["k"] = b"1"
    path = table.path
    del table
    gc.collect()
    assert not path.exists()


def test_an_owner_whose_process_ends_removes_it(shm_name: str) -> None:
    program = f"""
from zarrstream.mappings.shm import SharedMemoryMapping
table = SharedMemoryMapping({shm_name!r}, owner=True)
table["k"] = b"1"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert not (HOME / shm_name).exists()


@pytest.mark.parametrize("who", ["opener", "closer", "owner"])
def test_a_killed_owner_is_noticed_by_the_next(shm_name: str, who: str) -> None:
    """By the next who opens or closes the table, or owns it: what was a dead process's is removed."""
    reads, writes = os.pipe()

    def work() -> None:
        table = SharedMemoryMapping(shm_name, owner=True)
        table["k"] = b"1"
        os.write(writes, b".")
        signal.pause()

    child = forked(work)
    assert os.read(reads, 1) == b"."
    guest = SharedMemoryMapping(shm_name)
    assert guest["k"] == b"1"  # while its owner lives, guests come and go
    guest.close()
    assert guest["k"] == b"1"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    os.close(writes)
    assert (HOME / shm_name / "data.mdb").exists()
    if who == "opener":
        assert list(SharedMemoryMapping(shm_name)) == []
    elif who == "closer":
        guest.close()
    else:
        SharedMemoryMapping(shm_name, owner=True).close()
    assert not (HOME / shm_name).exists()
    guest.close()


def test_a_dead_owner_beside_a_living_one_removes_nothing(shm_name: str) -> None:
    table = SharedMemoryMapping(shm_name, owner=True)
    table["k"] = b"1"

    def work() -> None:
        other = SharedMemoryMapping(shm_name, owner=True)
        assert other["k"] == b"1"
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(work), 0)
    guest = SharedMemoryMapping(shm_name)
    assert guest["k"] == table["k"] == b"1"
    guest.close()
    table.close()
    assert not (HOME / shm_name).exists()


def read_and_end(table: SharedMemoryMapping) -> None:
    assert not table.owner
    assert table["k"] == b"1"
    table["child"] = b"2"
    table.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_is_no_owner(shm_name: str, method: str) -> None:
    """Neither one that was pickled nor one in a forked child: its end is not the table's."""
    table = SharedMemoryMapping(shm_name, owner=True)
    assert table.owner
    table["k"] = b"1"
    run(method, read_and_end, [(table,)])
    assert table["child"] == b"2"
    copy = pickle.loads(pickle.dumps(table))
    assert not copy.owner
    del copy
    gc.collect()
    assert table["k"] == b"1"
    table.close()
    assert not (HOME / shm_name).exists()


def test_a_child_that_outlives_an_owner_does_not_keep_its_table(shm_name: str) -> None:
    """A lock lasts while anybody has its descriptor, so that a child must not have it."""
    reads, writes = os.pipe()

    def owner() -> None:
        table = SharedMemoryMapping(shm_name, owner=True)
        table["k"] = b"1"
        grandchild = forked(lambda: (os.write(writes, b"."), signal.pause()))  # type: ignore[func-returns-value]  # a pair
        os.write(writes, grandchild.to_bytes(4, "big"))
        signal.pause()

    child = forked(owner)
    told = b""
    while len(told) < 5:
        told += os.read(reads, 5)
    grandchild = int.from_bytes(told.replace(b".", b"", 1) if told[:1] == b"." else told[:4], "big")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        assert list(SharedMemoryMapping(shm_name)) == []
        assert not (HOME / shm_name).exists()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reads)
        os.close(writes)


def test_owners_come_and_go_at_once(shm_name: str) -> None:
    """In four threads: each finds a table of its own or another's, and the last leaves nothing."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(25):
                table = SharedMemoryMapping(shm_name, owner=True)
                table[f"{number}"] = b"1"
                assert table[f"{number}"] == b"1"
                table.close()
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not (HOME / shm_name).exists()


def test_a_store_around_it_closes_it(shm_name: str) -> None:
    table = SharedMemoryMapping(shm_name, owner=True)
    store = MappingStore(table)
    table["k"] = b"1"
    store.close()
    assert not table.path.exists()


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
