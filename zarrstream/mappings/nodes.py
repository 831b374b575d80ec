"""Which nodes of a hierarchy have been seen, by their metadata: what tells a lost place from an empty one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.mappings.base import level

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The documents by which zarr, 2 and 3, tells what is at a path.
METADATA = ("zarr.json", ".zarray", ".zgroup")
#: The last part of every key that is no chunk's.
METADATA_KEYS = frozenset({*METADATA, ".zattrs", ".zmetadata"})
_NODES = 10_000  # that are remembered: more are opened by nobody at once


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

    def saw(self, key: str) -> None:
        """Remember the node of a key that is there, if it is the key of metadata."""
        path, _, name = key.rpartition("/")
        if name in METADATA and path not in self._paths:
            while len(self._paths) >= _NODES:
                self._paths.pop(next(iter(self._paths)), None)
            self._paths[path] = None

    def removed(self, key: str) -> None:
        """Forget a node that has been removed on purpose."""
        path, _, name = key.rpartition("/")
        if name in METADATA:
            self._paths.pop(path, None)

    def removed_under(self, path: str) -> None:
        """Forget the nodes beneath a path, and the one at it."""
        for node in self:
            if node == path or node.startswith(level(path)):
                self._paths.pop(node, None)

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


def documents(node: str) -> tuple[str, ...]:
    """Return the keys that a node's metadata may have."""
    return tuple(f"{level(node)}{name}" for name in METADATA)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those above it, the root last."""
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""
