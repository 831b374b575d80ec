"""Gets and puts through each store, beside the same by its bare client, in turns in one process.

``python -m tests.benchmarks.stores [--json FILE]``. Servers are started as the tests start them; what is not installed
is left out. Every place has grown before the clock starts: the first writer would pay for all. No put repeats the value
that is there: SQLite would see that, and write nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import tempfile
import time
import warnings
import zipfile
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.programs import Server, data_folder
from tests.services import mongodb_url, postgresql_server, postgresql_url, postgresql_user, replica_set
from zarrstream import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from contextlib import AbstractContextManager

KEYS, ROUNDS = 64, 9
SIZES = {16 << 10: 400, 1 << 20: 48}  # bytes of a value: calls in a round
#: Store -> how much of its client's speed it is to keep, at least, where that was asked for.
REQUIRED = {"SQLite": 0.75, "LMDB": 0.5, "shm": 0.5, "MongoDB": 0.8, "PostgreSQL": 0.8}


class Bare(NamedTuple):
    """A client by itself: what gets a key, what puts a value under one, and what makes a place that has grown ready."""

    get: Callable[[str], Any]
    put: Callable[[str, bytes], Any]
    settle: Callable[[], object] = lambda: None


@contextmanager
def serving(start: Callable[[Path], Server], user: str | None = None) -> Iterator[Server]:
    """Run a server for as long as the block lasts."""
    with data_folder(user) as folder:
        server = start(folder)
        try:
            yield server
        finally:
            server.stop(signal.SIGINT)


@contextmanager
def sqlite(folder: Path) -> Iterator[tuple[MutableMapping[str, bytes], Bare]]:
    """The same table, log and statements by the standard library's module."""
    store: Any = open_store(f"sqlite:////{folder}/ours.db")
    client = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for statement in ("PRAGMA page_size = 8192", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"):
        client.execute(statement)
    client.execute("CREATE TABLE zarr(k TEXT PRIMARY KEY, v BLOB)")
    put = "INSERT INTO zarr VALUES(?, ?) ON CONFLICT(k) DO UPDATE SET v = excluded.v"
    yield (
        store.mapping,
        Bare(
            lambda key: client.execute("SELECT v FROM zarr WHERE k = ?", (key,)).fetchone()[0],
            lambda key, value: client.execute(put, (key, value)),
        ),
    )
    store.close()
    client.close()


@contextmanager
def beside_lmdb(store: Any, folder: Path) -> Iterator[tuple[MutableMapping[str, bytes], Bare]]:
    """A transaction for each call, none of which waits for the disk."""
    import lmdb as driver

    environment = driver.open(f"{folder}/bare.lmdb", map_size=1 << 30, sync=False, metasync=False)

    def get(key: str) -> Any:
        with environment.begin() as transaction:
            return transaction.get(key.encode())

    def put(key: str, value: bytes) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key.encode(), value)

    yield store.mapping, Bare(get, put)
    store.close()
    environment.close()


def lmdb(folder: Path) -> AbstractContextManager[tuple[MutableMapping[str, bytes], Bare]]:
    """On disk, beside py-lmdb there."""
    return beside_lmdb(open_store(f"lmdb:////{folder}/ours.lmdb", durability="off"), folder)


@contextmanager
def shm(_: Path) -> Iterator[tuple[MutableMapping[str, bytes], Bare]]:
    """In the memory's file system, beside py-lmdb there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        store = open_store(f"shm://benchmark-{os.getpid()}", owner=True)
        with beside_lmdb(store, Path(folder)) as both_ways:
            yield both_ways


@contextmanager
def archive(folder: Path) -> Iterator[tuple[MutableMapping[str, bytes], Bare]]:
    """zipfile on one archive that stays open: it writes a key that is there once more."""
    store: Any = open_store(f"zip:////{folder}/ours.zip")
    client = zipfile.ZipFile(folder / "bare.zip", "a")

    def reopen() -> None:
        nonlocal client
        client.close()
        client = zipfile.ZipFile(folder / "bare.zip", "a")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name")

        def get(key: str) -> bytes:
            return client.read(key)  # of the archive that is open now

        def put(key: str, value: bytes) -> None:
            client.writestr(key, value)

        yield store.mapping, Bare(get, put, reopen)
    store.close()
    client.close()


@contextmanager
def mongodb(_: Path) -> Iterator[tuple[MutableMapping[str, bytes], Bare]]:
    """pymongo's GridFS; a put removes what was there, as ours does."""
    import gridfs
    import pymongo

    with serving(replica_set) as server, pymongo.MongoClient(mongodb_url(server)) as client:
        store: Any = open_store(mongodb_url(server, "ours"), array_id="benchmark")
        bucket = gridfs.GridFSBucket(client["bare"])

        def put(key: str, value: bytes) -> None:
            old = [found._id for found in bucket.find({"filename": key})]  # pymongo's own name
            bucket.upload_from_stream(key, value)
            for one in old:
                bucket.delete(one)

        yield store.mapping, Bare(lambda key: bucket.open_download_stream_by_name(key).read(), put)
        store.close()


@contextmanager
def postgresql(_: Path) -> Iterator[tuple[MutableMapping[str, bytes], Bare]]:
    """psycopg on one connection, a statement for each call."""
    import psycopg

    with serving(postgresql_server, postgresql_user()) as server:
        url = postgresql_url(server)
        with psycopg.connect(url, autocommit=True) as client:
            store: Any = open_store(url, array_id="benchmark")
            # It would clean up behind one of the two while the other is measured.
            client.execute("ALTER SYSTEM SET autovacuum = off")
            client.execute("SELECT pg_reload_conf()")
            client.execute("CREATE TABLE bare(k text PRIMARY KEY, v bytea)")
            client.execute("ALTER TABLE bare ALTER v SET STORAGE EXTERNAL")
            put = "INSERT INTO bare VALUES(%s, %s) ON CONFLICT(k) DO UPDATE SET v = excluded.v"

            def get(key: str) -> Any:
                return client.execute("SELECT v FROM bare WHERE k = %s", (key,), binary=True).fetchone()

            yield (
                store.mapping,
                Bare(
                    get,
                    lambda key, value: client.execute(put, (key, value)),
                    lambda: client.execute("VACUUM ANALYZE"),
                ),
            )
            store.close()


PLACES = {
    "SQLite": (sqlite, "sqlite3"),
    "LMDB": (lmdb, "lmdb"),
    "shm": (shm, "lmdb"),
    "zip": (archive, "zipfile"),
    "MongoDB": (mongodb, "pymongo"),
    "PostgreSQL": (postgresql, "psycopg"),
}


def measure(name: str, *, rounds: int = ROUNDS, calls: dict[int, int] = SIZES) -> list[dict[str, Any]]:
    """Measure one store: a row per size and verb, microseconds per call."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mapping, bare = stack.enter_context(PLACES[name][0](folder))
        ways = {"ours": (mapping.__getitem__, mapping.__setitem__), "bare": (bare.get, bare.put)}
        for size, count in calls.items():
            values = [os.urandom(size) for _ in range(2)]
            for _, put in ways.values():
                for number in range(2 * KEYS):
                    put(f"c/{number % KEYS}", values[0])
            mapping.flush()
            bare.settle()
            rows += [row(name, verb, size, spent) for verb, spent in both(ways, values, count, rounds).items()]
    return rows


def both(ways: dict[str, Any], values: list[bytes], count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median microseconds of a get and of a put by each way, in turns: first all gets, then all puts."""
    return {
        "get": in_turns({way: partial(gets, get) for way, (get, _) in ways.items()}, values, count, rounds),
        "put": in_turns({way: partial(puts, put) for way, (_, put) in ways.items()}, values, count, rounds),
    }


def gets(get: Callable[[str], Any], items: list[tuple[str, bytes]]) -> None:
    """Get every key."""
    for key, _ in items:
        get(key)


def puts(put: Callable[[str, bytes], Any], items: list[tuple[str, bytes]]) -> None:
    """Put every value."""
    for key, value in items:
        put(key, value)


def in_turns(ways: dict[str, Any], values: list[bytes], count: int, rounds: int) -> dict[str, float]:
    """Return the median microseconds of a call by each way."""
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        # From where the last turn ended; each pass over the keys has the other value.
        numbers = range(turn * count + KEYS, (turn + 1) * count + KEYS)
        items = [(f"c/{number % KEYS}", values[number // KEYS % 2]) for number in numbers]
        for way in sorted(ways, reverse=bool(turn % 2)):
            start = time.perf_counter()
            ways[way](items)
            spent[way].append((time.perf_counter() - start) / count * 1e6)
    return {way: statistics.median(times) for way, times in spent.items()}


def row(name: str, verb: str, size: int, spent: dict[str, float]) -> dict[str, Any]:
    """Return one line of the table."""
    return {"store": name, "verb": verb, "size": size, **spent, "ratio": spent["bare"] / spent["ours"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown; what is less than asked for is bold."""
    lines = ["| store | call | ours, µs | bare client, µs | its speed kept | asked for |", "|---|---|---|---|---|---|"]
    for found in rows:
        asked = REQUIRED.get(found["store"])
        ratio = f"{found['ratio']:.2f}" if asked is None or found["ratio"] >= asked else f"**{found['ratio']:.2f}**"
        call = f"{found['verb']} {found['size'] >> 10} KiB"
        lines.append(
            f"| {found['store']} | {call} | {found['ours']:.1f} | {found['bare']:.1f} | {ratio} | {asked or ''} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure every store that is installed; print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.stores", description="stores beside bare clients")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the result")
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works")
    parser.add_argument("--only", choices=PLACES, help="one store")
    options = parser.parse_args(arguments)
    quick = {"rounds": 1, "calls": dict.fromkeys(SIZES, 3)} if options.quick else {}
    rows = []
    for name, (_, driver) in PLACES.items():
        if find_spec(driver) and options.only in (None, name):
            rows += measure(name, **quick)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
