"""Owners of tables in shared memory: who is one, and that the last one's end is the table's, however it comes."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.lmdb_tables import forked
from tests.optional import require
from tests.processes import METHODS, run
from zarrstream import MappingStore, StoreUnavailableError

require("lmdb")

from zarrstream.mappings.shm import SharedMemoryMapping  # noqa: E402

HOME = Path(f"/dev/shm/zarrstream-{os.geteuid()}")  # noqa: S108  # looked at


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
