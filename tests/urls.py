"""The one table of stores by URL: each row meets fsspec's tests, xarray and dask."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import fsspec
import pytest

from tests.leaks import unique_name
from tests.optional import require
from tests.programs import marks, servers
from tests.services import mongodb_url, postgresql_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.programs import Server


def postgresql_user_url(server: Server) -> str:
    """Return the URL of a database in which a new user has a schema of its own."""
    user = f"u{uuid4().hex}"
    with require("psycopg").connect(postgresql_url(server), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN; CREATE SCHEMA AUTHORIZATION {user}")
        connection.execute(f"ALTER ROLE {user} SET search_path = {user}")  # not the tables of other tests
    return postgresql_url(server, user)


@dataclass(frozen=True)
class UrlRow:
    """One kind of store.

    Attributes
    ----------
    rest : callable
        From an empty folder, and the server where there is one, to what follows ``scheme://`` in the URL of a database
        (of a part of it, on a server) in which there is nothing.
    driver : str
        What has to be installed.
    protocol : str or None
        Its name in fsspec, where that is another than the scheme.
    service : str or None
        The fixture of `tests.services` that is the server.
    """

    rest: Callable[..., str]
    driver: str = "fsspec"
    protocol: str | None = None
    service: str | None = None


URL_ROWS = {
    "sqlite": UrlRow(lambda folder: f"/{folder}/x.db"),
    "lmdb": UrlRow(lambda folder: f"/{folder}/x.lmdb", driver="lmdb"),
    "shm": UrlRow(lambda _: unique_name(), driver="lmdb"),
    "mongodb": UrlRow(
        lambda _, server: mongodb_url(server, f"t{uuid4().hex}").partition("://")[2],
        driver="pymongo",
        service="mongod",
    ),
    # Without an option in the URL, the user decides which table "zarr" is.
    "postgresql": UrlRow(
        lambda _, server: postgresql_user_url(server).partition("://")[2], driver="psycopg", service="postgresql"
    ),
    "zip": UrlRow(lambda folder: f"/{folder}/x.zip", protocol="zarrzip"),
}


def url_params(*kinds: str) -> list[Any]:
    """Return the schemes as parameters of a fixture; with kinds, the pairs of scheme and kind."""
    cases = list(product(URL_ROWS, kinds)) if kinds else [(scheme,) for scheme in URL_ROWS]
    return [
        pytest.param(case if kinds else case[0], id="-".join(case), marks=marks(URL_ROWS[case[0]].service))
        for case in cases
    ]


def within(url: str, key: str) -> str:
    """Return the URL of a key in the database of another URL, whose options stay at its end."""
    database, mark, options = url.partition("?")
    return f"{database}/{key}{mark}{options}"


def urls(scheme: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Yield the URLs of a database, for `open_store` and for fsspec; what they made is removed afterwards."""
    row = URL_ROWS[scheme]
    require(row.driver)
    rest = row.rest(folder, *servers(row.service, request))
    url = f"{row.protocol or scheme}://{rest}"
    yield f"{scheme}://{rest}", url
    mapping = fsspec.url_to_fs(url)[0].mapping
    getattr(mapping, "destroy", mapping.close)()
