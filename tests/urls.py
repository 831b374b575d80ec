"""The one table of stores by URL: each row meets fsspec's tests, xarray and dask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import fsspec

from tests.leaks import unique_name
from tests.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class UrlRow:
    """One kind of store.

    Attributes
    ----------
    rest : callable
        From an empty folder to what follows ``scheme://`` in the URL of a database that is not there.
    driver : str
        What has to be installed.
    protocol : str or None
        Its name in fsspec, where that is another than the scheme.
    """

    rest: Callable[[Path], str]
    driver: str = "fsspec"
    protocol: str | None = None


URL_ROWS = {
    "sqlite": UrlRow(lambda folder: f"/{folder}/x.db"),
    "lmdb": UrlRow(lambda folder: f"/{folder}/x.lmdb", driver="lmdb"),
    "shm": UrlRow(lambda _: unique_name(), driver="lmdb"),
    "zip": UrlRow(lambda folder: f"/{folder}/x.zip", protocol="zarrzip"),
}


def urls(scheme: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the URLs of a database, for `open_store` and for fsspec; what they made is removed afterwards."""
    row = URL_ROWS[scheme]
    require(row.driver)
    rest = row.rest(folder)
    url = f"{row.protocol or scheme}://{rest}"
    yield f"{scheme}://{rest}", url
    mapping = fsspec.url_to_fs(url)[0].mapping
    getattr(mapping, "destroy", mapping.close)()
