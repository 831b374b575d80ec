"""A bucket of its own for each test of GridFS, and the driver's view of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.optional import require
from tests.services import mongodb_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server
    from zarrstream.mappings.gridfs import GridFSMapping

#: The fixtures of a replica set, and of a server without transactions.
BOTH = [pytest.param("mongod", id="set"), pytest.param("lone_mongod", id="lone")]


def fresh_url(server: Server) -> str:
    """Return the URL of a database that is not there."""
    require("pymongo")
    return mongodb_url(server, f"t{uuid4().hex}")


def bucket_of(server: Server, **options: Any) -> Iterator[GridFSMapping]:
    """Yield the mapping of one array in the bucket "arrays" of a new database."""
    url = fresh_url(server)
    from zarrstream.mappings.gridfs import GridFSMapping

    made = GridFSMapping(url, bucket="arrays", array_id="exp", **options)
    yield made
    made.close()


def behind(mapping: GridFSMapping) -> Iterator[Any]:
    """Yield the driver's view of a mapping's database."""
    where = mapping._connection.where
    with require("pymongo").MongoClient(where.url) as client:
        yield client[where.database]


def counts(database: Any) -> tuple[int, int]:
    """Return how many files and pieces are in the bucket, whatever state they are in."""
    return database["arrays.files"].count_documents({}), database["arrays.chunks"].count_documents({})
