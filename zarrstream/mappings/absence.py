"""Which nodes of a hierarchy have been seen, by their metadata: what tells a lost place from an empty one."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zarrstream.mappings.base import level

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The documents by which zarr, 2 and 3, tells what is at a path.
METADATA = ("zarr.json", ".zarray", ".zgroup")
#: The last part of every key that is no chunk's.
METADATA_KEYS = frozenset({*METADATA, ".zattrs", ".zmetadata"})
_CONSOLIDATED = frozenset({"zarr.json", ".zmetadata"})


class SeenNodes:
    """The paths whose metadata have been there.

    Parameters
    ----------
    paths : iterable of str, optional
        What another one has seen.
    """

    def __init__(self, paths: tuple[str, ...] = ()) -> None:
        self._paths: dict[str, None] = dict.fromkeys(paths)

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._paths))

    def saw(self, key: str, value: object = b"") -> None:
        """Remember the node of a key that is there, if it is the key of metadata.

        Parameters
        ----------
        key : str
            The key.
        value : buffer, optional
            What is stored under it. Consolidated metadata tell of more nodes: whoever opens an array by them never asks
            for the array's own, and its chunks shall be missed all the same.
        """
        path, _, name = key.rpartition("/")
        if name in METADATA:
            self._paths.setdefault(path)
        if name in _CONSOLIDATED:
            for node in _consolidated(memoryview(value)):  # type: ignore[arg-type]  # a buffer, as it was read
                self._paths.setdefault(f"{level(path)}{node}")

    @contextmanager
    def removing(self, keys: Iterable[str] = (), *, under: str | None = None) -> Iterator[None]:
        """Forget nodes that are being removed on purpose; those that could not be are remembered again.

        Parameters
        ----------
        keys : iterable of str
            The keys that are removed; those of metadata take their nodes along.
        under : str, optional
            A path that is removed with all that is beneath it.
        """
        gone = {path for path, _, name in (key.rpartition("/") for key in keys) if name in METADATA and path in self}
        if under is not None:
            gone.update(node for node in self if node == under or node.startswith(level(under)))
        for node in gone:
            self._paths.pop(node, None)
        try:
            yield
        except BaseException:
            self._paths.update(dict.fromkeys(gone))
            raise

    def removed(self, key: str) -> None:
        """Forget a node that has been removed on purpose."""
        with self.removing((key,)):
            pass

    def removed_under(self, path: str) -> None:
        """Forget the nodes beneath a path, and the one at it."""
        with self.removing(under=path):
            pass

    def forget(self) -> None:
        """Begin anew."""
        self._paths = {}

    def node_of(self, key: str) -> str | None:
        """Return the nearest node above a chunk's key; None for metadata, and where none has been seen.

        Nobody takes missing metadata for a fill value, and whoever makes a node looks for it first.
        """
        path, _, name = key.rpartition("/")
        if name in METADATA_KEYS:
            return None
        return next((node for node in _upwards(path) if node in self._paths), None)


def _consolidated(value: memoryview) -> Iterator[str]:
    """Yield the paths of the nodes that a document of consolidated metadata tells of, below its own."""
    raw = bytes(value)
    if b"metadata" not in raw:
        return
    try:
        document = json.loads(raw)
        members = document.get("metadata") or (document.get("consolidated_metadata") or {}).get("metadata") or {}
        names = list(members)
    except (ValueError, AttributeError, TypeError):  # no such document: zarr says so to whoever opens it
        return
    for name in names:
        path, _, last = name.rpartition("/")
        yield path if last in METADATA else name


def documents(node: str) -> tuple[str, ...]:
    """Return the keys that a node's metadata may have."""
    return tuple(f"{level(node)}{name}" for name in METADATA)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those above it, the root last."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""
