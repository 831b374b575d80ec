"""The file systems whose database is on a server: a URL names host and database, and then a key in it."""

from __future__ import annotations

from typing import Any, ClassVar

from zarrstream import places
from zarrstream.errors import StoreOptionError
from zarrstream.filesystem.base import FSSPEC_OPTIONS, MappingFileSystem


class ServerFileSystem(MappingFileSystem):
    """The keys of a mapping in a database on a server as files.

    Parameters
    ----------
    url : str
        Of the database, as the back end's mapping takes it.
    **storage_options
        Those of the back end's mapping, and fsspec's own.

    Attributes
    ----------
    scheme : str
        The back end's name in `zarrstream.places`.

    Raises
    ------
    StoreOptionError
        No URL, one that names no database, or an unknown option.
    MissingExtraError
        The driver is not installed.

    Notes
    -----
    In ``postgresql://user:password@host/database/group/zarr.json?option=value`` the first part of the path is the
    database and the rest the key; user, password and options are the database's. Paths that a file system tells have
    neither: ``host/database/group/zarr.json``.
    """

    scheme: ClassVar[str]

    def __init__(self, url: str | None = None, **storage_options: Any) -> None:
        if not url or not self._strip_protocol(url).partition("/")[2]:
            raise StoreOptionError(
                f"which database? Pass its URL: "
                f"fsspec.filesystem({self.protocol!r}, url='{self.scheme}://user@host/database')"
            )
        own = {name: value for name, value in storage_options.items() if name not in FSSPEC_OPTIONS}
        mapping = places.make(places.built_in(self.scheme), (url,), own, called=str(self.protocol))
        super().__init__(mapping, self._strip_protocol(url), **storage_options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(name) for name in path]
        name = str(path)
        if name.startswith(f"{cls.protocol}://"):
            server, _, rest = name.removeprefix(f"{cls.protocol}://").partition("?")[0].partition("/")
            name = f"{server.rpartition('@')[2]}/{rest}"
        return name.rstrip("/")

    @classmethod
    def _get_kwargs_from_urls(cls, path: str) -> dict[str, str]:
        scheme, _, rest = path.partition("://")
        rest, mark, options = rest.partition("?")
        server, _, inner = rest.partition("/")
        return {"url": f"{scheme}://{server}/{inner.partition('/')[0]}{mark}{options}"}


class MongoDBFileSystem(ServerFileSystem):
    """The files of one array id in a GridFS bucket as files: the ``mongodb`` of fsspec's URLs.

    Parameters
    ----------
    url : str
        Of the database.
    **storage_options
        Those of `zarrstream.mappings.gridfs.GridFSMapping` (``bucket``, ``array_id``, …), and fsspec's own.

    Raises
    ------
    StoreOptionError
        No URL, one that names no database, or an unknown option.
    MissingExtraError
        pymongo is not installed.

    Notes
    -----
    See `ServerFileSystem` for how a URL is divided into database and key. Bucket and array id are storage options.
    """

    protocol = scheme = "mongodb"


class PostgreSQLFileSystem(ServerFileSystem):
    """The rows of one array id in a PostgreSQL database as files: the ``postgresql`` of fsspec's URLs.

    Parameters
    ----------
    url : str
        Of the database.
    **storage_options
        Those of `zarrstream.mappings.postgresql.PostgreSQLMapping` (``table_name``, ``array_id``, …), and fsspec's own.

    Raises
    ------
    StoreOptionError
        No URL, one that names no database, or an unknown option.
    MissingExtraError
        psycopg is not installed.

    Notes
    -----
    See `ServerFileSystem` for how a URL is divided into database and key. Table and array id are storage options.
    """

    protocol = scheme = "postgresql"
