"""The file systems whose database has a name: the first part of the path in a URL, and then a key in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarrstream import places
from zarrstream.filesystem.base import FSSPEC_OPTIONS, MappingFileSystem, restore

if TYPE_CHECKING:
    from zarrstream.mappings.base import ByteMapping


class SharedMemoryFileSystem(MappingFileSystem):
    """The keys of one table in shared memory as files: the ``shm`` of fsspec's URLs.

    Parameters
    ----------
    name : str, optional
        The table. Without it each path tells its own.
    **storage_options
        Those of `zarrstream.mappings.shm.SharedMemoryMapping`, and fsspec's own.

    Raises
    ------
    StoreOptionError
        A name that no table can have; an unknown option.
    MissingExtraError
        py-lmdb is not installed.

    Notes
    -----
    In ``shm://table/group/zarr.json`` the first part is the table, and the rest the key. Reading a table that is not
    there makes none.
    """

    protocol = "shm"

    def __init__(self, name: str | None = None, **storage_options: Any) -> None:
        self._own = {option: value for option, value in storage_options.items() if option not in FSSPEC_OPTIONS}
        root = f"/{name}" if name else None
        super().__init__(self._mapping_at(root) if root else None, root, **storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is no owner, not even for as long as it takes to make it.
        options = {option: value for option, value in self.storage_options.items() if option != "owner"}
        return restore, (type(self), self.storage_args, options, self.mapping, self.root)

    def _root_of(self, path: str) -> str:
        return "/" + path.split("/")[1]

    def _mapping_at(self, root: str) -> ByteMapping:
        made: ByteMapping = places.make(places.built_in(self.protocol), (root.removeprefix("/"),), self._own)
        return made

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(name) for name in path]
        return "/" + str(path).removeprefix(f"{cls.protocol}://").strip("/")

    @classmethod
    def _get_kwargs_from_urls(cls, path: str) -> dict[str, str]:
        return {"name": cls._strip_protocol(path).split("/")[1]}
