"""Mappings on the tests' PostgreSQL, each on a table that is not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.optional import require
from tests.services import postgresql_url

require("psycopg")

import psycopg  # noqa: E402  # absent on some machines

from zarrstream.mappings.postgresql import PostgreSQLMapping  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server


@pytest.fixture
def table() -> str:
    """The name of a table that is not there."""
    return f"t{uuid4().hex}"


@pytest.fixture
def mapping(postgresql: Server, table: str) -> Iterator[PostgreSQLMapping]:
    made = PostgreSQLMapping(postgresql_url(postgresql), table_name=table)
    yield made
    made.close()


@pytest.fixture
def admin(postgresql: Server) -> Iterator[psycopg.Connection[Any]]:
    """Another client."""
    with psycopg.connect(postgresql_url(postgresql), autocommit=True) as connection:
        yield connection


def one(admin: psycopg.Connection[Any], statement: str, *parameters: object) -> Any:
    """Return the one value that a query gives."""
    row = admin.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]
