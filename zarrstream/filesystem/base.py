"""A mapping as an fsspec file system, whatever its place."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from fsspec.transaction import Transaction

from zarrstream.errors import StoreError
from zarrstream.mappings.base import ByteMapping, level

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
            files.mapping.flush()


class MappingFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A `ByteMapping` as a file system: its keys are the files beneath one root.

    Parameters
    ----------
    mapping : ByteMapping
        What is shown.
    root : str
        The path that names the mapping as a whole. Not empty, since zarr 3.1.6 lists wrongly then, and with a slash, so
        that no key can begin as it does.
    **storage_options
        fsspec's own.

    Notes
    -----
    Only an absent key is `FileNotFoundError`; every other failure is a `zarrstream.errors.StoreError`, which zarr does
    not take for "not stored". Paths are literal: ``rm`` and ``cat_file`` expand no ``*``. Folders are implied by
    keys: ``mkdir`` and ``rmdir`` do nothing. A key ``a`` beside a key ``a/b`` is a file and a folder at once. The end
    of a transaction publishes what the mapping has pending (see ``ByteMapping.flush``).

    **Threads, processes, durability**: the mapping's. **Pickling**: the mapping is pickled.
    """

    # Instances would be kept for good, and their connections with them.
    cachable = False
    root_marker = "/"
    transaction_type = PublishingTransaction

    def __init__(self, mapping: ByteMapping, root: str, **storage_options: Any) -> None:
        super().__init__(**storage_options)
        self.mapping = mapping
        self.root = root

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), self.storage_args, self.storage_options, self.mapping, self.root)

    @property
    def fsid(self) -> str:
        """The mapping's place."""
        return str(self.mapping.place)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes ``start`` to ``end`` of a file; negative numbers count from the end."""
        with self._key(path) as key:
            return self.mapping[key] if start is None and end is None else self.mapping.read(key, start or 0, end)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a whole file; ``mode="create"`` refuses one that is there."""
        with self._key(path) as key:
            if mode == "create" and key in self.mapping:
                raise FileExistsError(path)
            self.mapping[key] = value

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy one file within the mapping; of a folder there is nothing to copy."""
        if not self.isfile(path1) and self.isdir(path1):
            return
        self.pipe_file(path2, self.cat_file(path1))

    def rm_file(self, path: str) -> None:
        """Remove one file."""
        with self._key(path) as key:
            del self.mapping[key]

    _rm = rm_file

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and with ``recursive`` whatever is beneath them. Patterns are not expanded."""
        for name in [path] if isinstance(path, str) else path:
            with self._key(name) as key:
                beneath = recursive and any(True for _ in self.mapping.children(key))
                if key in self.mapping:
                    self.mapping.discard(key)
                elif not beneath:
                    raise KeyError(key)
                if beneath:
                    self.mapping.clear_under(key)

    def _open(self, path: str, mode: str = "rb", block_size: Any = "default", **kwargs: Any) -> MappingFile:
        if "x" in mode and self.isfile(path):
            raise FileExistsError(path)
        return MappingFile(self, path, mode, block_size, **kwargs)

    # -- names --------------------------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return name, size and type of a file or folder."""
        path = self._strip_protocol(path)
        with self._key(path) as key:
            if key in self.mapping:
                return _entry(path, self.mapping.size(key))
            if any(True for _ in self.mapping.children(key)):
                return _entry(path)
            raise KeyError(key)

    def isfile(self, path: str) -> bool:
        """Return whether there is a key."""
        with suppress(FileNotFoundError), self._key(path) as key:
            return key in self.mapping
        return False

    def isdir(self, path: str) -> bool:
        """Return whether there are keys beneath."""
        with suppress(FileNotFoundError), self._key(path) as key:
            return any(True for _ in self.mapping.children(key))
        return False

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether there is a key, or a key beneath. A store that fails raises: it is not "absent"."""
        return self.isfile(path) or self.isdir(path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List one level."""
        path = self._strip_protocol(path)
        with self._key(path) as key:
            names = [f"{path}/{name}" for name in self.mapping.children(key)]
            if not names and key in self.mapping:
                names = [path]
            if not names:
                raise KeyError(key)
        return [self.info(name) for name in names] if detail else names

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """List every file beneath, and with ``withdirs`` every folder, too: what is deeper first, folders last.

        The order matters to zarr's ``FsspecStore.clear``, which removes what it finds with all that is beneath, and
        stops at the first name that is gone.
        """
        path = self._strip_protocol(path)
        with self._key(path) as key:
            keys = list(self.mapping.keys_under(level(key))) or ([key] if key in self.mapping else [])
        parents = {str(parent) for name in keys for parent in PurePosixPath(name).parents} if withdirs else set()
        folders = sorted(name for name in parents - {".", key, *keys} if name.startswith(level(key)))
        depth = len(key.split("/")) if key else 0
        chosen = [
            f"{self.root}/{name}"
            for name in ((*reversed(keys), *reversed(folders)) if withdirs else keys)
            if maxdepth is None or name.count("/") + 1 - depth <= maxdepth
        ]
        return {name: self.info(name) for name in chosen} if detail else chosen

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Do nothing: folders are implied by keys."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: folders are implied by keys."""

    def rmdir(self, path: str) -> None:
        """Do nothing: folders are implied by keys."""

    @contextmanager
    def _key(self, path: str) -> Iterator[str]:
        """Yield the key of a path; an absent key, and it alone, becomes `FileNotFoundError`."""
        path = self._strip_protocol(path)
        if path != self.root and not path.startswith(f"{self.root}/"):
            raise FileNotFoundError(path)
        try:
            yield path[len(self.root) + 1 :]
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
    mapping: ByteMapping,
    root: str,
) -> MappingFileSystem:
    """Return what was pickled."""
    filesystem = cls(*arguments, **options)
    # As they were where it was pickled: the mapping knows whether its file was there, and the root is absolute.
    filesystem.mapping, filesystem.root = mapping, root
    return filesystem
