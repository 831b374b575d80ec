"""The file systems whose database has a name: the first part of the path in a URL, and then a key in it."""

from __future__ import annotations

from typing import Any

from zarrstream import places
from zarrstream.errors import StoreOptionError
from zarrstream.filesystem.base import FSSPEC_OPTIONS, MappingFileSystem, restore


class SharedMemoryFileSystem(MappingFileSystem):
    """The keys of one table in shared memory as files: the ``shm`` of fsspec's URLs.

    Parameters
    ----------
    name : str
        The table.
    **storage_options
        Those of `zarrstream.mappings.shm.SharedMemoryMapping`, and fsspec's own.

    Raises
    ------
    StoreOptionError
        No name, or one that no table can have; an unknown option.
    MissingExtraError
        py-lmdb is not installed.

    Notes
    -----
    In ``shm://table/group/zarr.json`` the first part is the table, and the rest the key. Reading a table that is not
    there makes none.
    """

    protocol = "shm"

    def __init__(self, name: str | None = None, **storage_options: Any) -> None:
        if not name:
            raise StoreOptionError("which table? Pass its name: fsspec.filesystem('shm', name='table')")
        own = {option: value for option, value in storage_options.items() if option not in FSSPEC_OPTIONS}
        mapping = places.make(places.built_in(self.protocol), (name,), own)
        super().__init__(mapping, f"/{name}", **storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is no owner, not even for as long as it takes to make it.
        options = {option: value for option, value in self.storage_options.items() if option != "owner"}
        return restore, (type(self), self.storage_args, options, self.mapping, self.root)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(name) for name in path]
        return "/" + str(path).removeprefix(f"{cls.protocol}://").strip("/")

    @classmethod
    def _get_kwargs_from_urls(cls, path: str) -> dict[str, str]:
        return {"name": cls._strip_protocol(path).split("/")[1]}
