"""The time that a call has left reaches the database's driver, which ends what nobody else can."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from zarr.core.buffer import cpu

from tests.optional import require
from tests.services import mongodb_url, postgresql_url
from zarrstream import ResilientStore, Retry, open_store
from zarrstream.errors import StoreTimeoutError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.programs import Server

require("tenacity")
DEADLINE = 0.4
FOR_EVER = 30  # seconds: what waits without the deadline waits as long, at the least


@contextmanager
def overdue(store: Any) -> Iterator[ResilientStore]:
    """Give a store a deadline, and see it kept."""
    began = time.monotonic()
    with pytest.raises((StoreTimeoutError, StoreUnavailableError)):
        yield ResilientStore(store, retry=Retry(deadline=DEADLINE, attempt_timeout=None, base=0.01))
    assert time.monotonic() - began < FOR_EVER / 2


def value() -> cpu.Buffer:
    return cpu.Buffer.from_bytes(b"2")


def test_sqlite_waits_no_longer_for_a_lock_than_the_call_has(tmp_path: Path) -> None:
    """And afterwards as long as ever."""
    store: Any = open_store(f"sqlite:////{tmp_path}/x.db")
    store.set_sync("k", value())
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with overdue(store) as hasty:
        hasty.set_sync("k", value())
    other.execute("ROLLBACK")
    other.close()
    store.set_sync("k", value())
    connection = store.mapping._file._links.get().connection
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
    store.close()


@pytest.mark.server
def test_postgresql_ends_a_statement_that_waits_for_a_lock(postgresql: Server) -> None:
    psycopg = require("psycopg")
    store: Any = open_store(postgresql_url(postgresql), table_name="deadlines", array_id="a")
    store.set_sync("k", value())
    with psycopg.connect(postgresql_url(postgresql)) as other:
        other.execute("LOCK TABLE deadlines IN ACCESS EXCLUSIVE MODE")
        with overdue(store) as hasty:
            hasty.set_sync("k", value())
        other.rollback()
    store.set_sync("k", value())
    store.close()


@pytest.mark.server
def test_mongodb_ends_a_command_that_is_late(mongod: Server) -> None:
    driver = require("pymongo").MongoClient("127.0.0.1", mongod.port, directConnection=True)
    store: Any = open_store(mongodb_url(mongod, "deadlines"), array_id="a")
    store.set_sync("k", value())
    late = {"failCommands": ["find"], "blockConnection": True, "blockTimeMS": 1000 * FOR_EVER}
    driver.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": late})
    with overdue(store) as hasty:
        hasty.get_sync("k")
    driver.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert store.get_sync("k") is not None
    store.close()
    driver.close()
