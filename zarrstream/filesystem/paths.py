"""The file systems whose database is a file or a folder: the path in a URL names it, and then a key in it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from zarrstream import places, urls
from zarrstream.errors import StoreOptionError, StoreUnavailableError
from zarrstream.filesystem.base import FSSPEC_OPTIONS, MappingFileSystem, restore

if TYPE_CHECKING:
    from zarrstream.mappings.base import ByteMapping


class PathFileSystem(MappingFileSystem):
    """The keys of one database file or folder as files.

    Parameters
    ----------
    path : str, optional
        The database. Without it each path tells its own, as a URL does.
    **storage_options
        Those of the back end's mapping, and fsspec's own.

    Attributes
    ----------
    scheme : str
        The back end's name in `zarrstream.places`.
    suffixes : frozenset of str
        How databases of this kind are named.

    Raises
    ------
    StoreOptionError
        An unknown option.

    Notes
    -----
    A relative path begins in the folder in which the file system was made.

    In ``sqlite:///x.db/group/zarr.json`` the database is the first part of the path that is one; if there is none yet,
    the first that has one of the `suffixes` and is not something else; else the whole path. The rest is the key.
    Reading a database that is not there makes none.
    """

    scheme: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]

    def __init__(self, path: str | None = None, **storage_options: Any) -> None:
        if {"fo", "target_protocol", "target_options"} & storage_options.keys():  # fsspec's, of a chained URL
            raise StoreOptionError(
                f"a {self.protocol} database is a local file or folder, and cannot lie in another file system: bring "
                f"it here first (fsspec.filesystem(…).get), and open it by its path"
            )
        self._own = {name: value for name, value in storage_options.items() if name not in FSSPEC_OPTIONS}
        root = self._strip_protocol(path) if path else None
        super().__init__(self._mapping_at(root) if root else None, root, **storage_options)
        # Whoever changes the working folder later means the same files.
        self._stay_in(_working_folder())

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: value for name, value in self.storage_options.items() if name != "path"}
        arguments = () if self.root is None else (self.root,)
        return _restore, (type(self), arguments, options, self.mapping, self.root, self._folder)

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path, which leads back to it."""
        return f"{self.protocol}:///{self._strip_protocol(name)}"

    def _stay_in(self, folder: str | None) -> None:
        self._folder = folder
        self._strip_protocol = partial(self._absolute, folder=folder)  # type: ignore[method-assign]  # see `__init__`

    def _root_of(self, path: str) -> str:
        return self._database(path)

    def _mapping_at(self, root: str) -> ByteMapping:
        place = places.built_in(self.scheme)
        made: ByteMapping = places.make(place, (root,), self._own, called=str(self.protocol))
        return made

    @classmethod
    def is_database(cls, path: str) -> bool:
        """Return whether there is a database of this kind at a path."""
        return os.path.isfile(path)  # noqa: PTH113  # pathlib would rewrite the key

    @classmethod
    def is_other(cls, path: str) -> bool:
        """Return whether there is something at a path that cannot become such a database."""
        return os.path.isdir(path)  # noqa: PTH112  # as above

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return cls._absolute(path)

    @classmethod
    def _absolute(cls, path: Any, *, folder: str | None = None) -> Any:
        if isinstance(path, list):
            return [cls._absolute(name, folder=folder) for name in path]
        name = os.fsdecode(path)
        if name.startswith(f"{cls.protocol}://"):
            name = urls.file_path(name.removeprefix(f"{cls.protocol}://"))
        if not name.startswith("/"):
            folder = folder or _working_folder()
            if folder is None:  # never FileNotFoundError, which would read as a chunk that is not stored
                raise StoreUnavailableError(
                    f"the working folder is gone, where {name!r} would be: pass an absolute path"
                )
            name = os.path.join(folder, name)  # noqa: PTH118  # as above
        return name.rstrip("/")

    @classmethod
    def _get_kwargs_from_urls(cls, path: str) -> dict[str, str]:
        return {"path": cls._database(cls._strip_protocol(path))}

    @classmethod
    def _database(cls, path: str) -> str:
        parts = path.split("/")
        leading = ["/".join(parts[:count]) for count in range(2, len(parts) + 1)]
        there = (name for name in leading if cls.is_database(name))
        named = (name for name in leading if PurePosixPath(name).suffix in cls.suffixes and not cls.is_other(name))
        return next(there, None) or next(named, path)


class SQLiteFileSystem(PathFileSystem):
    """The keys of one SQLite file as files: the ``sqlite`` of fsspec's URLs.

    Parameters
    ----------
    path : str
        The database file.
    **storage_options
        Those of `zarrstream.mappings.sqlite.SQLiteMapping`, and fsspec's own.

    Raises
    ------
    StoreOptionError
        An unknown option.

    Notes
    -----
    See `PathFileSystem` for how a URL is divided into database and key.
    """

    protocol = scheme = "sqlite"
    suffixes = frozenset({".db", ".db3", ".sqlite", ".sqlite3"})


class LMDBFileSystem(PathFileSystem):
    """The keys of one LMDB database as files: the ``lmdb`` of fsspec's URLs.

    Parameters
    ----------
    path : str
        The database's folder.
    **storage_options
        Those of `zarrstream.mappings.lmdb.LMDBMapping`, and fsspec's own.

    Raises
    ------
    StoreOptionError
        An unknown option.
    MissingExtraError
        py-lmdb is not installed.

    Notes
    -----
    A database is a folder with a file ``data.mdb``; a new one is known by the suffix ``.lmdb``. See `PathFileSystem`
    for how a URL is divided into database and key.
    """

    protocol = scheme = "lmdb"
    suffixes = frozenset({".lmdb"})

    @classmethod
    def is_database(cls, path: str) -> bool:
        """Return whether there is a folder with an LMDB database at a path."""
        return os.path.isfile(f"{path}/data.mdb")  # noqa: PTH113  # as above

    @classmethod
    def is_other(cls, path: str) -> bool:
        """Return whether there is a file at a path, where a folder would have to be."""
        return os.path.isfile(path)  # noqa: PTH113  # as above


class ZarrZipFileSystem(PathFileSystem):
    """The keys of one zip archive as files: the ``zarrzip`` of fsspec's URLs, where ``zip`` is fsspec's own.

    Parameters
    ----------
    path : str
        The archive.
    **storage_options
        fsspec's own.

    Raises
    ------
    StoreOptionError
        An unknown option.

    Notes
    -----
    See `PathFileSystem` for how a URL is divided into archive and key, and `zarrstream.mappings.zip.ZipMapping` for
    when what is written is published: at the latest when the last file system (or array) of the archive is gone, or
    the interpreter ends; at once by ``mapping.flush()`` or at the end of a transaction.
    """

    protocol = "zarrzip"
    scheme = "zip"
    suffixes = frozenset({".zip"})


def _working_folder() -> str | None:
    """Return the working folder; None where it is gone."""
    try:
        return os.getcwd()  # noqa: PTH109  # pathlib would rewrite the key
    except OSError:
        return None


def _restore(
    cls: type[PathFileSystem],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    mapping: ByteMapping | None,
    root: str | None,
    folder: str | None,
) -> MappingFileSystem:
    filesystem = restore(cls, arguments, options, mapping, root)
    filesystem._stay_in(folder)  # noqa: SLF001  # of this module
    return filesystem
