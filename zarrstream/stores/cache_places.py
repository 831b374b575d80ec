"""Which part of a cache a store's keys are: one place has one name, from wherever in it a store was opened."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import ref

from zarr.storage import LocalStore, WrapperStore

if TYPE_CHECKING:
    from zarr.abc.store import Store

_PORTS = {"http": 80, "https": 443}


def place_and_prefix(store: Store) -> tuple[str, str]:
    """Return what tells a store's chunks from those of any other one, and what its keys begin with in there.

    A folder and one beneath it, a bucket and a prefix in it, a bucket of GridFS and an array in it are one place, in
    which a chunk has one name. A store without a place has one for as long as it lives.
    """
    inner: Any = store
    while isinstance(inner, WrapperStore) and type(inner).__module__.startswith("zarrstream."):
        inner = inner._store  # noqa: SLF001  # zarr's wrappers have no public way to what they wrap
    if isinstance(inner, LocalStore):
        return "file://", f"{inner.root.resolve().as_posix().strip('/')}/"
    container = getattr(inner, "limited_place", None)
    if container is not None:  # of the clouds
        return _endpoint(str(container)), str(inner._place.name(""))  # noqa: SLF001  # a store of ours
    whole = getattr(getattr(inner, "mapping", None), "whole_place", None)
    if whole is not None:
        place, prefix = whole
        return _host(place), prefix
    place = getattr(inner, "place", None)
    return (_host(str(place)) if place else _of_object(inner)), ""


def _endpoint(container: str) -> str:
    """Return a bucket's name with its endpoint in the one form that it has."""
    name, found, endpoint = container.rpartition(" at ")
    parts = urlsplit(endpoint)
    if not found or not parts.netloc:
        return container
    host = (parts.hostname or "").replace("localhost", "127.0.0.1")
    port = parts.port or _PORTS.get(parts.scheme, 0)
    return f"{name} at {parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"


def _host(place: str) -> str:
    return re.sub(r"(?<=[/,])localhost(?=[:/,])", "127.0.0.1", place)


def _of_object(store: object) -> str:
    key = id(store)
    known = _objects.get(key)
    if known is None or known[0]() is not store:
        known = _objects[key] = ref(store, lambda _: _objects.pop(key, None)), str(uuid.uuid4())
    return known[1]


#: By `id`, which another object may have later, when this one is gone.
_objects: dict[int, tuple[Any, str]] = {}
