"""A mapping as an fsspec file system, whatever its place."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import fsspec.utils
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from fsspec.transaction import Transaction

from zarrstream.errors import StoreError, StoreOptionError
from zarrstream.mappings.base import ByteMapping, contiguous, level

if TYPE_CHECKING:
    from collections.abc import Iterator

# Options that fsspec, or zarr through it, hands to any file system.
FSSPEC_OPTIONS = frozenset(
    {"asynchronous", "loop", "batch_size", "use_listings_cache", "listings_expiry_time", "max_paths"}
)


class PublishingTransaction(Transaction):  # type: ignore[misc]  # fsspec ships no types
    """fsspec's transaction, which at its end publishes what the mapping has pending."""

    def complete(self, commit: bool = True) -> None:
        """Write the deferred files, or drop them; then publish."""
        files = self.fs
        super().complete(commit)
        if commit:
            files.publish()


class MappingFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A `ByteMapping` as a file system: its keys are the files beneath one root.

    Parameters
    ----------
    mapping : ByteMapping or None
        What is shown. Without it each path tells, as a URL does, in which mapping it is: so `fsspec.generic` makes a
        file system by its protocol alone.
    root : str or None
        The path that names the mapping as a whole. Not empty, since zarr 3.1.6 lists wrongly then, and with a slash, so
        that no key can begin as it does.
    **storage_options
        fsspec's own.

    Notes
    -----
    Only an absent key is `FileNotFoundError`; every other failure is a `zarrstream.errors.StoreError`, which zarr does
    not take for "not stored", and a path outside of the root is a `StoreOptionError`. Paths are literal: ``rm`` and
    ``cat_file`` expand no ``*``. Folders are implied by keys: ``mkdir`` and ``rmdir`` do nothing. A key ``a`` beside a
    key ``a/b`` is a file and a folder at once. The end of a transaction publishes what the mapping has pending (see
    ``ByteMapping.flush``).

    **Threads, processes, durability**: the mapping's. **Pickling**: the mapping is pickled.
    """

    # Instances would be kept for good, and their connections with them.
    cachable = False
    root_marker = "/"
    transaction_type = PublishingTransaction

    def __init__(self, mapping: ByteMapping | None, root: str | None, **storage_options: Any) -> None:
        super().__init__(**storage_options)
        self.mapping: Any = mapping
        self.root: Any = root
        # By their roots, of a file system that has no mapping of its own.
        self._met: dict[str, ByteMapping] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), self.storage_args, self.storage_options, self.mapping, self.root)

    @property
    def fsid(self) -> str:
        """The mapping's place."""
        return str(self.mapping.place)

    def publish(self) -> None:
        """Publish what is pending. See `ByteMapping.flush`."""
        for mapping in (self.mapping, *self._met.values()):
            if mapping is not None:
                mapping.flush()

    # -- bytes --------------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes ``start`` to ``end`` of a file; negative numbers count from the end."""
        with self._at(path) as (mapping, key):
            return mapping[key] if start is None and end is None else mapping.read(key, start or 0, end)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a whole file; ``mode="create"`` refuses one that is there.

        Of many that create one file at once, one does. (Those with the same bytes cannot be told from it.)
        """
        with self._at(path) as (mapping, key):
            if mode != "create":
                mapping[key] = value
            elif key in mapping or mapping.setdefault(key, value) != bytes(contiguous(value)):
                raise FileExistsError(path)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy one file within the mapping; of a folder there is nothing to copy."""
        if not self.isfile(path1) and self.isdir(path1):
            return
        self.pipe_file(path2, self.cat_file(path1))

    def rm_file(self, path: str) -> None:
        """Remove one file."""
        with self._at(path) as (mapping, key):
            del mapping[key]

    _rm = rm_file

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and with ``recursive`` what is beneath them, ``maxdepth`` levels down or all.

        Patterns are not expanded.
        """
        for name in [path] if isinstance(path, str) else path:
            with self._at(name) as (mapping, key):
                beneath = recursive and any(True for _ in mapping.children(key))
                within = self.find(name, maxdepth=maxdepth) if beneath and maxdepth is not None else None
                if key in mapping:
                    mapping.discard(key)
                elif not beneath:
                    raise KeyError(key)
                if within is not None:
                    for file in within:
                        with self._at(file) as (_, deeper):
                            mapping.discard(deeper)
                elif beneath:
                    mapping.clear_under(key)

    def get(self, rpath: Any, lpath: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Copy files to the local file system, and none beside the folder that is named."""
        if recursive and isinstance(lpath, str) and not hasattr(fsspec.utils, "check_contained"):  # fsspec before 2026
            for name in [rpath] if isinstance(rpath, str) else rpath:
                climbing = [file for file in self.find(name) if ".." in file.split("/")]
                if climbing:
                    raise StoreOptionError(f"{climbing[0]!r} would be written outside of {lpath!r}: get it by its name")
        super().get(rpath, lpath, recursive=recursive, **kwargs)

    def _open(self, path: str, mode: str = "rb", block_size: Any = "default", **kwargs: Any) -> MappingFile:
        if "x" in mode and self.isfile(path):
            raise FileExistsError(path)
        if mode == "rb" and kwargs.get("size") is None:
            found = self.info(path)
            if found["type"] == "directory":
                raise IsADirectoryError(path)
            kwargs["size"] = found["size"]
        return MappingFile(self, path, mode, block_size, **kwargs)

    # -- names --------------------------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size and type of a file or folder."""
        path = self._strip_protocol(path)
        with self._at(path) as (mapping, key):
            with suppress(KeyError):
                return _entry(path, mapping.size(key))
            if any(True for _ in mapping.children(key)):
                return _entry(path)
            raise KeyError(key)

    def isfile(self, path: str) -> bool:
        """Return whether there is a key."""
        with self._at(path) as (mapping, key):
            return key in mapping

    def isdir(self, path: str) -> bool:
        """Return whether there are keys beneath."""
        with self._at(path) as (mapping, key):
            return any(True for _ in mapping.children(key))

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether there is a key, or a key beneath. A store that fails raises: it is not "absent"."""
        return self.isfile(path) or self.isdir(path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List one level."""
        path = self._strip_protocol(path)
        with self._at(path) as (mapping, key):
            # In one call for the names, and one for the sizes of those that are files.
            names = {f"{level(key)}{name}": f"{path}/{name}" for name in mapping.children(key)}
            if not names and key in mapping:
                names = {key: path}
            if not names:
                raise KeyError(key)
            if not detail:
                return list(names.values())
            sizes = mapping.size_many(names)
        return [_entry(name, sizes.get(key)) for key, name in names.items()]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """List every file beneath, and with ``withdirs`` every folder, too: what is deeper first, folders last.

        The order matters to zarr's ``FsspecStore.clear``, which removes what it finds with all that is beneath, and
        stops at the first name that is gone.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        sizes: dict[str, int] = {}
        with self._at(path) as (mapping, key):
            if detail:
                sizes = dict(mapping.sizes_under(level(key))) or mapping.size_many([key])
                keys = list(sizes)
            else:
                keys = list(mapping.keys_under(level(key))) or ([key] if key in mapping else [])
        root = path.removesuffix(f"/{key}") if key else path
        parents = {str(parent) for name in keys for parent in PurePosixPath(name).parents} if withdirs else set()
        folders = sorted(name for name in parents - {".", key, *keys} if name.startswith(level(key)))
        depth = len(key.split("/")) if key else 0
        chosen = [
            name
            for name in ((*reversed(keys), *reversed(folders)) if withdirs else keys)
            if maxdepth is None or name.count("/") + 1 - depth <= maxdepth
        ]
        if detail:
            return {f"{root}/{name}": _entry(f"{root}/{name}", sizes.get(name)) for name in chosen}
        return [f"{root}/{name}" for name in chosen]

    def du(self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **_: Any) -> Any:
        """Return the bytes of all files beneath, or of each by its name; folders have none."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True)
        sizes = {name: entry["size"] for name, entry in found.items()}
        return sum(sizes.values()) if total else sizes

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Do nothing: folders are implied by keys."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: folders are implied by keys."""

    def rmdir(self, path: str) -> None:
        """Do nothing: folders are implied by keys."""

    def _shown(self, path: str) -> tuple[ByteMapping, str]:
        """Return the mapping in which a path is, and its root."""
        if self.mapping is not None and self.root is not None:
            return self.mapping, self.root
        root = self._root_of(path)
        if root not in self._met:
            self._met.setdefault(root, self._mapping_at(root))
        return self._met[root], root

    def _root_of(self, path: str) -> str:
        """Return the root of the mapping in which a path is, as in a URL."""
        raise NotImplementedError

    def _mapping_at(self, root: str) -> ByteMapping:
        """Return the mapping that has this root."""
        raise NotImplementedError

    @contextmanager
    def _at(self, path: str) -> Iterator[tuple[ByteMapping, str]]:
        """Yield the mapping and the key of a path; an absent key, and it alone, becomes `FileNotFoundError`."""
        path = self._strip_protocol(path)
        mapping, root = self._shown(path)
        if path != root and not path.startswith(f"{root}/"):
            # FileNotFoundError would read as a chunk that is not stored.
            raise StoreOptionError(f"{path!r} is not in {root!r}, which this file system shows: open it by its own URL")
        try:
            yield mapping, path[len(root) + 1 :]
        except KeyError as error:
            raise FileNotFoundError(path) from error
        except StoreError as error:
            if "not satisfiable" not in str(error):
                raise
            # A name may hold these words, which zarr's FsspecStore takes for an empty value.
            raise type(error)(str(error).replace("not satisfiable", "not-satisfiable")) from error


class MappingFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec ships no types
    """An open file: read by ranges; written as a whole when it is closed, or its transaction ends."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)  # type: ignore[no-any-return]

    def _initiate_upload(self) -> None:
        self._before = self.fs.cat_file(self.path) if "a" in self.mode and self.fs.isfile(self.path) else b""

    def _upload_chunk(self, final: bool = False) -> bool:
        if final and self.autocommit:
            self.commit()
        return False  # keep the buffer: a value is written whole

    def commit(self) -> None:
        """Write the value."""
        mode = "create" if "x" in self.mode else "overwrite"
        self.fs.pipe_file(self.path, self._before + self.buffer.getvalue(), mode=mode)

    def discard(self) -> None:
        """Forget the value."""


def _entry(name: str, size: int | None = None) -> dict[str, Any]:
    """Return what fsspec tells of a file, or of a folder, which has no size."""
    return {"name": name, "size": size or 0, "type": "directory" if size is None else "file"}


def restore(
    cls: type[MappingFileSystem],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    mapping: ByteMapping | None,
    root: str | None,
) -> MappingFileSystem:
    """Return what was pickled."""
    filesystem = cls(*arguments, **options)
    # As they were where it was pickled: the mapping knows whether its file was there, and the root is absolute.
    filesystem.mapping, filesystem.root = mapping, root
    return filesystem
