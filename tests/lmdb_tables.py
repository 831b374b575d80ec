"""LMDB databases on disk and in shared memory, looked at from outside; and what other processes do to them."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from tests.leaks import unique_name
from tests.optional import require
from tests.processes import forked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from zarrstream.mappings.lmdb import LMDBMapping

KINDS = ("lmdb", "shm")
MIB = 1 << 20


def made(kind: str, folder: Path, **options: Any) -> Iterator[LMDBMapping]:
    """Yield a mapping of a kind, and remove what it left."""
    require("lmdb")
    from zarrstream.mappings.lmdb import LMDBMapping
    from zarrstream.mappings.shm import SharedMemoryMapping

    if kind == "lmdb":
        mapping = LMDBMapping(folder / "x.lmdb", **{"durability": "off", **options})
        yield mapping
        mapping.close()
    else:
        table = SharedMemoryMapping(unique_name(), **options)
        yield table
        table.destroy()


def descriptors(mapping: LMDBMapping) -> int:
    """Count the descriptors of this process that lead to the database."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  # names are all we need
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]  # noqa: PTH115  # text, not paths
    return sum(target.startswith(f"{mapping.path}/") for target in targets)


def killed_within(mapping: LMDBMapping, *, write: bool) -> None:
    """Let a child begin a transaction, write in it where it may, and be killed before its end."""
    reads, writes = os.pipe()

    def work() -> None:
        def halfway(transaction: Any) -> None:
            if write:
                for number in range(20):
                    transaction.put(b"half/%d" % number, bytes(5000))
                transaction.put(b"k", b"half")
            assert transaction.get(b"k")
            os.write(writes, b".")
            signal.pause()

        mapping._share.call(halfway, write=write, create=write)

    child = forked(work)
    os.close(writes)
    assert os.read(reads, 1) == b"."
    os.close(reads)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def rewrite(mapping: LMDBMapping, keys: int, size: int, stop: Event) -> None:
    """Write the same keys again and again, each value of one byte's repetition."""
    version = 0
    while not stop.is_set():
        version = version % 250 + 1
        mapping.update_many((f"k{number}", bytes([version]) * size) for number in range(keys))
        mapping["single"] = bytes([version]) * size
    mapping.close()


def read_whole(mapping: LMDBMapping, keys: int, size: int, seconds: float) -> None:
    """Read for some time, and several versions; fail on half a value, a mixed batch, or a range of two versions."""
    versions: set[int] = set()
    begun = time.monotonic()
    while time.monotonic() < begun + seconds or len(versions) <= 3:
        assert time.monotonic() < begun + seconds + 60
        found = mapping.read_many(f"k{number}" for number in range(keys))
        assert len({value[:1] for value in found.values()}) == 1
        for value in (*found.values(), mapping["single"]):
            assert value == value[:1] * size
        part = mapping.read("single", 100, size - 100)
        assert part == part[:1] * (size - 200)
        versions.add(found["k0"][0])
    mapping.close()


def hold_all_in_memory(mapping: LMDBMapping, keys: int, folder: Path, number: int, count: int) -> None:
    """Read every value, and tell this process's proportional share of the map while all processes have read it."""
    for index in range(keys):
        assert len(mapping[f"k{index}"]) == MIB
    meet(folder, "read", number, count)
    meet(folder, "share", number, count, proportional_share(str(mapping.path)))
    mapping.close()


def meet(folder: Path, what: str, number: int, count: int, told: int = 0) -> None:
    """Tell the other processes something, and wait until all have. (multiprocessing's barriers keep shared memory.)"""
    folder.joinpath(f".{what}-{number}").write_text(str(told))
    folder.joinpath(f".{what}-{number}").rename(folder / f"{what}-{number}")
    deadline = time.monotonic() + 60
    while len(list(folder.glob(f"{what}-*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def proportional_share(folder: str) -> int:
    """Return the bytes of a database that this process is charged with, each page parted among those who map it."""
    total, within = 0, False
    with open("/proc/self/smaps") as file:  # noqa: PTH123  # no file of the disk
        for line in file:
            if "-" in line.split(" ", 1)[0]:
                within = line.rstrip().endswith(f"{folder}/data.mdb")
            elif within and line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
