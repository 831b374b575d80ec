"""Tables in shared memory beside bare py-lmdb, zarr's MemoryStore, and Redis from two processes.

``python -m tests.benchmarks.shared_memory``; needs the extra ``shm``, and for Redis its server and client.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

import lmdb
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import MemoryStore

from tests.optional import require
from zarrstream import MappingStore
from zarrstream.mappings.shm import SharedMemoryMapping

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

KEYS, ROUNDS = 64, 7
SIZES = {16 << 10: 2000, 1 << 20: 200}  # bytes of a value: how often per round


class Bare:
    """py-lmdb's own gets and puts, without a wait for the disk."""

    def __init__(self, path: str) -> None:
        self.environment = lmdb.open(path, map_size=1 << 30, sync=False, metasync=False)

    def __getitem__(self, key: str) -> bytes | None:
        with self.environment.begin() as transaction:
            return transaction.get(key.encode())

    def __setitem__(self, key: str, value: bytes) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(key.encode(), value)


def both(mapping: Any, value: bytes, times: int, meet: Callable[[], object] = bool) -> tuple[float, float]:
    """Return the median microseconds of a get and of a put, in a place that has grown before."""

    def median(work: Callable[[str], object]) -> float:
        meet()
        spent = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for number in range(times):
                work(f"c/{number % KEYS}")
            spent.append((time.perf_counter() - start) / times * 1e6)
        return statistics.median(spent)

    for number in range(3 * KEYS):
        mapping[f"c/{number % KEYS}"] = value
    return median(mapping.__getitem__), median(lambda key: mapping.__setitem__(key, value))


async def awaited(store: Any, value: bytes, times: int) -> tuple[float, float]:
    """Return the microseconds of an awaited get and set, as zarr calls a store."""
    prototype, buffer = default_buffer_prototype(), cpu.Buffer.from_bytes(value)
    for number in range(KEYS):
        await store.set(f"c/{number}", buffer)
    start = time.perf_counter()
    for number in range(times):
        await store.get(f"c/{number % KEYS}", prototype)
    middle = time.perf_counter()
    for number in range(times):
        await store.set(f"c/{number % KEYS}", buffer)
    return (middle - start) / times * 1e6, (time.perf_counter() - middle) / times * 1e6


def worker(name: str, socket: str, size: int, told: Any, barrier: Any) -> None:
    """Measure in one of two processes that work at the same time."""
    mapping: MutableMapping[str, bytes] = (
        require("redis").Redis(unix_socket_path=socket) if socket else SharedMemoryMapping(name)
    )
    told.put(both(mapping, os.urandom(size), SIZES[size], barrier.wait))


def together(name: str, socket: str, size: int) -> tuple[float, float]:
    """Return the mean over two processes of the microseconds of a get and a put."""
    context = multiprocessing.get_context("spawn")
    told, barrier = context.Queue(), context.Barrier(2)
    processes = [context.Process(target=worker, args=(name, socket, size, told, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    gets, puts = zip(*(told.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return sum(gets) / 2, sum(puts) / 2


def main() -> None:
    """Print a line per size and way."""
    folder = tempfile.mkdtemp(dir="/dev/shm")  # where the tables are
    server = shutil.which("redis-server")
    socket = f"{folder}/redis"
    command = [str(server), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL) if server else None
    bare = Bare(folder)
    for size, times in SIZES.items():
        value, table = os.urandom(size), SharedMemoryMapping(f"benchmark-{os.getpid()}", owner=True)
        found = {
            "bare py-lmdb": both(bare, value, times),
            "shm": both(table, value, times),
            "MemoryStore, awaited": asyncio.run(awaited(MemoryStore(), value, times)),
            "shm, awaited": asyncio.run(awaited(MappingStore(table), value, times)),
            "shm, two processes": together(table.name, "", size),
        }
        if redis:
            found["Redis, two processes"] = together(table.name, socket, size)
        for way, (get, put) in found.items():
            print(f"{size >> 10:5} KiB  {way:22} get {get:8.1f} us  put {put:8.1f} us", flush=True)
        table.close()
    bare.environment.close()
    if redis:
        redis.terminate()
        redis.wait()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
