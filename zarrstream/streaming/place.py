"""Which place a store writes to, so that a checkpoint is believed there and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

from zarrstream.errors import CheckpointMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.store import Store

_ENDPOINTS = ("endpoint_url", "endpoint", "account_name", "account_host", "connection_string_host", "host", "port")


def place_of(store: Store) -> str:
    """Name the place that a store writes to, endpoint included and credentials left out.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store; wrappers are looked through.

    Raises
    ------
    CheckpointMismatchError
        If it has no place that would be there again: a plain dict, an unnamed memory store.
    """
    place = _place(unwrapped(store))
    if place is None:
        raise CheckpointMismatchError(
            f"{store!r} has no place that another process could open again, so a checkpoint of it could not be believed"
            ": write without a checkpoint, or into a store with a path or URL"
        )
    return place


def publisher_of(store: Store) -> Callable[[], object] | None:
    """Return what makes a store's writes durable; None where they are so when they return.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store; wrappers are looked through, and file systems of fsspec that show a mapping of ours.
    """
    inner = unwrapped(store)
    if isinstance(inner, FsspecStore):
        inner = getattr(_system(inner), "mapping", inner)
    return None if getattr(inner, "durable_on_write", True) else inner.flush


def unwrapped(store: Any) -> Any:
    """Return the store beneath all wrappers."""
    while isinstance(store, WrapperStore):
        store = store._store  # noqa: SLF001  # zarr's wrappers have no public way to what they wrap
    return store


def _system(store: FsspecStore) -> Any:
    return getattr(store.fs, "sync_fs", store.fs)  # fsspec's wrapper of synchronous file systems


def _place(store: Any) -> str | None:
    if hasattr(store, "place"):
        return None if store.place is None else str(store.place)
    if isinstance(store, LocalStore):
        return f"file://{store.root.resolve().as_posix()}"
    if isinstance(store, ZipStore):
        return f"zip://{Path(store.path or '').resolve().as_posix()}"
    if isinstance(store, FsspecStore):
        return _fsspec_place(store)
    if isinstance(store, MemoryStore):
        name = getattr(store, "name", None) or getattr(store, "_name", None)  # zarr's managed memory:// stores have one
        return f"memory://{name}/{getattr(store, 'path', '')}" if name else None
    return f"{type(store).__module__}.{type(store).__qualname__}:{store}"


def _fsspec_place(store: FsspecStore) -> str:
    system = _system(store)
    options = {**getattr(system, "storage_options", {}), **getattr(system, "client_kwargs", {})}
    endpoint = {name: options[name] for name in _ENDPOINTS if options.get(name) is not None}
    protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
    return f"{protocol}://{store.path} {json.dumps(endpoint, sort_keys=True, default=str)}"
