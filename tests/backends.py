"""The one table of back ends: each row runs under every law that applies to it."""

from __future__ import annotations

import dbm.dumb
import shelve
import sqlite3
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.leaks import unique_name
from tests.optional import require
from tests.programs import marks, servers
from tests.services import mongodb_url, postgresql_url
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.mappings.base import ByteMapping
from zarrstream.mappings.foreign import ForeignMapping
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from pathlib import Path

    from tests.programs import Server

#: The statement by which zarr 2.18's SQLiteStore makes its table. (tests/mappings/data/v2.db is a file that it wrote.)
V2_TABLE = "CREATE TABLE IF NOT EXISTS zarr(k TEXT PRIMARY KEY, v BLOB)"


def _zict_func(_: Path) -> MutableMapping[str, bytes]:
    return require("zict").Func(zlib.compress, zlib.decompress, {})  # type: ignore[no-any-return]


def _zict_buffer(_: Path) -> MutableMapping[str, bytes]:
    zict = require("zict")
    return zict.Buffer({}, {}, n=3)  # type: ignore[no-any-return]


def _shelf(folder: Path) -> MutableMapping[str, bytes]:
    return shelve.Shelf(dbm.dumb.open(str(folder / "shelf"), "c"))


def _lmdb(folder: Path) -> MutableMapping[str, bytes]:
    require("lmdb")
    from zarrstream.mappings.lmdb import LMDBMapping

    return LMDBMapping(folder / "x.lmdb", durability="off", map_size=1 << 16)


def _shm(_: Path) -> MutableMapping[str, bytes]:
    require("lmdb")
    from zarrstream.mappings.shm import SharedMemoryMapping

    return SharedMemoryMapping(unique_name(), map_size=1 << 16)


def _mongodb(_: Path, server: Server) -> MutableMapping[str, bytes]:
    require("pymongo")
    from zarrstream.mappings.gridfs import GridFSMapping

    return GridFSMapping(mongodb_url(server), array_id=f"laws-{uuid4().hex}")


def _mongodb_v2(_: Path, server: Server) -> MutableMapping[str, bytes]:
    require("pymongo")
    from zarrstream.mappings.gridfs import GridFSMapping

    return GridFSMapping(mongodb_url(server), bucket="v2", array_id=f"laws-{uuid4().hex}", layout="zarr-v2")


def _postgresql(_: Path, server: Server) -> MutableMapping[str, bytes]:
    require("psycopg")
    from zarrstream.mappings.postgresql import PostgreSQLMapping

    # One table for all tests, so that each law is kept beside the rows of the others.
    return PostgreSQLMapping(postgresql_url(server), array_id=f"laws-{uuid4().hex}")


def _sqlite_v2(folder: Path) -> MutableMapping[str, bytes]:
    connection = sqlite3.connect(folder / "v2.sqldb", isolation_level=None)
    connection.execute(V2_TABLE)
    connection.close()
    return SQLiteMapping(folder / "v2.sqldb")


class Published(ZipMapping):
    """A zip archive that is published after every write, so that the laws meet what the file says."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.flush()

    def update_many(self, items: Any) -> None:
        super().update_many(items)
        self.flush()


@dataclass(frozen=True)
class Row:
    """One kind of mapping.

    Attributes
    ----------
    name : str
        The test's id.
    make : callable
        From an empty folder, and the server where there is one, to an empty mapping.
    pickles : bool
        Whether the mapping pickles, without a word.
    service : str or None
        The fixture of `tests.services` that is the server.
    """

    name: str
    make: Callable[..., MutableMapping[str, bytes]]
    pickles: bool = True
    service: str | None = None


ROWS = (
    Row("dict", lambda _: {}, pickles=False),
    Row("zict-func", _zict_func, pickles=False),
    Row("zict-buffer", _zict_buffer, pickles=False),
    Row("shelve", _shelf, pickles=False),
    Row("sqlite", lambda folder: SQLiteMapping(folder / "x.db")),
    Row("sqlite-off", lambda folder: SQLiteMapping(folder / "x.db", durability="off")),
    Row("sqlite-v2", _sqlite_v2),
    Row("lmdb", _lmdb),
    Row("shm", _shm),
    Row("faulty", lambda folder: FaultyMapping(SQLiteMapping(folder / "x.db"))),
    Row("mongodb", _mongodb, service="mongod"),
    Row("mongodb-v2", _mongodb_v2, service="mongod"),
    Row("postgresql", _postgresql, service="postgresql"),
    Row("zip", lambda folder: ZipMapping(folder / "x.zip")),
    Row("zip-published", lambda folder: Published(folder / "x.zip")),
)
every_row = pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=marks(row.service)) for row in ROWS])


def opened(row: Row, folder: Path, request: pytest.FixtureRequest) -> Iterator[MutableMapping[str, bytes]]:
    """Yield the row's mapping, and close it, and remove what lives in no folder."""
    made: Any = row.make(folder, *servers(row.service, request))
    yield made
    if hasattr(made, "destroy"):
        made.destroy()
    if hasattr(made, "close"):
        made.close()


def contract(mapping: MutableMapping[str, bytes]) -> ByteMapping:
    """Return the mapping under our contract, as `MappingStore` calls it."""
    return mapping if isinstance(mapping, ByteMapping) else ForeignMapping(mapping)
