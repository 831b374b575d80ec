"""Who does the work: ours, the naive limit, and each peer that is installed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import zarr.core.codec_pipeline

from tests.benchmarks.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from tests.benchmarks.works import Work

#: Receives each item that was read, in order; a way may hand over the item's first element alone.
Use = Callable[["np.ndarray"], None]
#: Reads or writes the first so many items.
Run = Callable[[int, Use], None]

OURS = "zarrstream"
THREADS = 2  # of the naive limit and of dask; the others take as many as there are cores
AHEAD = 16
FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
ZARRS = "zarrs.ZarrsCodecPipeline"


@dataclass(frozen=True)
class Way:
    """A way to do a kind of work.

    Parameters
    ----------
    name : str
        As in the table.
    make : callable
        Takes a site, and returns what reads or writes it: what a program does once is not measured.
    needs : str
        The module that has to be installed.
    places : frozenset of str
        Where it works.
    sharded : bool, optional
        Whether it is for arrays with shards, for those without, or (None) for both.
    """

    name: str
    make: Callable[[Site], Run]
    needs: str = "zarr"
    places: frozenset[str] = frozenset({"local"})
    sharded: bool | None = None

    def fits(self, work: Work) -> bool:
        """Whether it is here and can do this work."""
        return (
            self.is_here()
            and work.place in self.places
            and (self.sharded is None or self.sharded == (work.per_shard > 1))
        )

    def is_here(self) -> bool:
        """Whether its module is installed and new enough."""
        if self.needs == FUSED:
            return hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline")
        return find_spec(self.needs) is not None


LOCAL = frozenset({"local"})
KEPT = frozenset({"local", "memory"})
EVERYWHERE = frozenset({"local", "memory", "SQLite", "LMDB"})


def take_in_order(futures: Iterable[Any], use: Use, *, ahead: int = AHEAD) -> None:
    """Use the results of futures in order, so many ahead of the one in use."""
    waiting: deque[Any] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) >= ahead:
            use(waiting.popleft().result())
    while waiting:
        use(waiting.popleft().result())


def through(pipeline: str, make: Callable[[Site], Run]) -> Callable[[Site], Run]:
    """Return the same way through another codec pipeline of zarr's."""

    def make_through(site: Site) -> Run:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array = zarr.open_array(site.store, mode="r+")
        run = make(Site(site.work, site.values, site.folder, site.store, array))

        def run_through(count: int, use: Use) -> None:
            with zarr.config.set({"codec_pipeline.path": pipeline}):
                run(count, use)

        return run_through

    return make_through


def over_obstore(make: Callable[[Site], Run]) -> Callable[[Site], Run]:
    """Return the same way over obstore's files instead of zarr's."""

    def make_over(site: Site) -> Run:
        import obstore.store

        store = zarr.storage.ObjectStore(obstore.store.LocalStore(site.folder / "array"))
        return make(Site(site.work, site.values, site.folder, store, zarr.open_array(store, mode="r+")))

    return make_over


def open_tensorstore(site: Site, **context: Any) -> Any:
    """Open the site's array in TensorStore, without a cache: nobody else has one."""
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{site.folder / 'array'}/"},
        "context": {"cache_pool": {"total_bytes_limit": 0}, **context},
    }
    return tensorstore.open(spec).result()
