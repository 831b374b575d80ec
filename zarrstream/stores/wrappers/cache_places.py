"""Which part of a cache a store's keys are: one place has one name, from wherever in it a store was opened."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any
from weakref import ref

from zarr.storage import WrapperStore

from zarrstream.identity import identity_of

if TYPE_CHECKING:
    from zarr.abc.store import Store


def place_and_prefix(store: Store) -> tuple[str, str]:
    """Return what tells a store's chunks from those of any other one, and what its keys begin with in there.

    A folder and one beneath it, a bucket and a prefix in it, a bucket of GridFS and an array in it are one place, in
    which a chunk has one name. A store without a place has one for as long as it lives.
    """
    inner: Any = store
    while isinstance(inner, WrapperStore) and type(inner).__module__.startswith("zarrstream."):
        inner = inner._store  # noqa: SLF001  # zarr's wrappers have no public way to what they wrap
    # Another's wrapper may show other values than what is in it: these are its own.
    found = None if isinstance(inner, WrapperStore) else identity_of(inner)
    if found is None:
        return _of_object(inner), ""
    return found.root, f"{found.prefix}/" if found.prefix else ""


def _of_object(store: object) -> str:
    key = id(store)
    known = _objects.get(key)
    if known is None or known[0]() is not store:
        known = _objects[key] = ref(store, lambda _: _objects.pop(key, None)), str(uuid.uuid4())
    return known[1]


#: By `id`, which another object may have later, when this one is gone.
_objects: dict[int, tuple[Any, str]] = {}
