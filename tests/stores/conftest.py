"""What tests of stores share: buckets on real servers, and a cache before a store whose calls are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from zarr.storage import LocalStore

from tests.clouds import CloudBucket, CloudRow, new_bucket
from tests.optional import require
from zarrstream.faults.store import FaultyStore
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores.wrappers.chunk_cache import ChunkCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.programs import Server

_made: dict[tuple[str, int], CloudBucket] = {}


@pytest.fixture
def bucket(cloud: CloudRow, request: pytest.FixtureRequest) -> CloudBucket:
    """A bucket that all tests share; each has a prefix of its own in it."""
    require(cloud.driver)
    server: Server = request.getfixturevalue(cloud.service)
    known = cloud.name, server.port
    if known not in _made:
        _made[known] = new_bucket(cloud, server)
    return _made[known]


@pytest.fixture
def own_bucket(cloud: CloudRow, request: pytest.FixtureRequest) -> CloudBucket:
    """A bucket that is this test's alone, to be lost."""
    require(cloud.driver)
    return new_bucket(cloud, request.getfixturevalue(cloud.service))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ChunkCache]:
    """A cache in a SQLite file."""
    made = ChunkCache(SQLiteMapping(tmp_path / "cache.db", durability="off"), max_bytes=1 << 20)
    yield made
    made.close()


@pytest.fixture
def slow(tmp_path: Path) -> FaultyStore:
    """A store whose calls are counted."""
    return FaultyStore(LocalStore(tmp_path / "slow"))
