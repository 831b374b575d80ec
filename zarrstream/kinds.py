"""What kind a store is, in a word: what telemetry calls it, whatever it is wrapped in."""

from __future__ import annotations

from typing import Any

_DATABASES = {
    "lmdb": "lmdb",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
    "postgresql": "postgresql",
    "shm": "lmdb",
    "sqlite": "sqlite",
}
_OF_ZARR = {"LocalStore": "file", "MemoryStore": "memory", "ZipStore": "zip"}


def kind_of(store: Any) -> str:  # noqa: ANN401  # of whichever class
    """Return a store's kind in a word: its scheme, or its class where it has none; wrappers are looked through."""
    while any(base.__name__ == "WrapperStore" for base in type(store).__mro__):
        store = store._store  # noqa: SLF001  # zarr's wrappers have no public way to what they wrap
    name = type(store).__name__
    system = getattr(store, "fs", None)
    system = getattr(system, "sync_fs", system)  # fsspec's wrapper of synchronous file systems
    place = getattr(getattr(system, "mapping", store), "place", None)
    if place:
        return str(place).partition(":")[0]
    if system is not None:
        return str(system.protocol if isinstance(system.protocol, str) else system.protocol[0])
    return _OF_ZARR.get(name, name)


def database_of(store: object) -> dict[str, str]:
    """Return which database a store lies in, as an attribute; nothing where it lies in none."""
    kind = kind_of(store)
    return {"db.system.name": _DATABASES[kind]} if kind in _DATABASES else {}
