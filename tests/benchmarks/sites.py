"""An array in one of the places, and the values that belong in it."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from tests.benchmarks.works import WIDTH, Work
from zarrstream import open_store, write_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}
COMPRESSORS: dict[str, Any] = {"none": None, "zstd": ZstdCodec(level=1), "blosc": BloscCodec(**BLOSC)}


def make_values(work: Work) -> np.ndarray:
    """Return what the array holds: a walk, rounded as measurements are, and another one in each item."""
    width = 2 * WIDTH if work.verb == "slice" else work.side
    walk = np.random.default_rng(0).standard_normal((width, width)).astype("f4")
    block = np.round(np.cumsum(walk, axis=1), 2)
    values = np.empty((work.count, width, width), "f4")
    for number in range(work.count):
        np.add(block, np.float32(number), out=values[number])
    return values if work.verb == "slice" else values.reshape(-1, width)


@dataclass(frozen=True)
class Site:
    """An array, and where it lies."""

    work: Work
    values: np.ndarray
    folder: Path
    store: Any
    array: Any

    def region(self, begin: int, end: int) -> tuple[slice, ...]:
        """Return what these items cover, in elements, half-open."""
        if self.work.verb == "slice":
            return (slice(begin, end), slice(None), slice(None))
        return (slice(begin * self.work.side, end * self.work.side), slice(None))

    def item(self, number: int) -> np.ndarray:
        """Return an item's values."""
        return self.values[self.region(number, number + 1)]

    def close(self) -> None:
        """Close the store; its folder goes with the run."""
        self.store.close()


@contextmanager
def new_site(work: Work, values: np.ndarray) -> Iterator[Site]:
    """Make an array without chunks in a fresh folder, and remove it in the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_place(work.place, folder)
        array = zarr.create_array(
            store,
            shape=values.shape,
            chunks=work.chunks,
            shards=work.shards,
            dtype="f4",
            compressors=COMPRESSORS[work.codec],
        )
        site = Site(work, values, folder, store, array)
        try:
            yield site
        finally:
            site.close()


def open_place(place: str, folder: Path) -> Any:
    """Open a store of the kind that a row names."""
    if place == "SQLite":
        return open_store(f"sqlite:///{folder / 'array.db'}")
    if place == "LMDB":
        return open_store(f"lmdb:///{folder / 'array.lmdb'}")
    return MemoryStore() if place == "memory" else LocalStore(folder / "array")


def fill(site: Site) -> None:
    """Write all values; that they arrived is checked by each way that reads them, zarr's own among them."""
    thick = site.work.step
    count = site.work.count
    write_stream(
        site.array,
        ((region, site.values[region]) for region in (site.region(i, i + thick) for i in range(0, count, thick))),
    )
