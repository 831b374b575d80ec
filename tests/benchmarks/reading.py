"""The ways to read an array chunk by chunk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numcodecs.blosc
import numcodecs.zstd
import numpy as np

from tests.benchmarks.ways import (
    EVERYWHERE,
    FUSED,
    KEPT,
    OURS,
    THREADS,
    ZARRS,
    Run,
    Use,
    Way,
    open_tensorstore,
    over_obstore,
    take_in_order,
    through,
)
from zarrstream import stream_chunks

if TYPE_CHECKING:
    from tests.benchmarks.sites import Site

DECODERS = {"none": bytes, "zstd": numcodecs.zstd.decompress, "blosc": numcodecs.blosc.decompress}
NAIVE_AHEAD = 8


def ours(site: Site) -> Run:
    """`stream_chunks`."""

    def run(count: int, use: Use) -> None:
        for chunk in stream_chunks(site.array, region=site.region(0, count)):
            use(chunk.data)

    return run


def naive_limit(site: Site) -> Run:
    """An executor of two threads that open, read and decode each chunk: nothing is checked, bounded or clipped."""
    decode = DECODERS[site.work.codec]
    shape = site.work.chunks
    files = site.folder / "array" / "c"
    held = (
        {} if site.work.place == "local" else {key: value.to_bytes() for key, value in site.store._store_dict.items()}
    )

    def from_file(number: int) -> np.ndarray:
        with open(f"{files}/{number}/0", "rb") as file:  # noqa: PTH123 - a Path object costs more than a small read
            return np.frombuffer(decode(file.read()), "f4").reshape(shape)

    def from_memory(number: int) -> np.ndarray:
        return np.frombuffer(decode(held[f"c/{number}/0"]), "f4").reshape(shape)

    one = from_memory if held else from_file

    def run(count: int, use: Use) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            take_in_order((pool.submit(one, number) for number in range(count)), use, ahead=NAIVE_AHEAD)

    return run


def zarr_loop(site: Site) -> Run:
    """One region after the other."""

    def run(count: int, use: Use) -> None:
        for number in range(count):
            use(site.array[site.region(number, number + 1)])

    return run


def zarr_whole(site: Site) -> Run:
    """All of it in one call, in memory; then chunk by chunk from there."""

    def run(count: int, use: Use) -> None:
        use_each(site, site.array[site.region(0, count)], use)

    return run


def zarr_shards(site: Site) -> Run:
    """One shard after the other."""
    step = site.work.per_shard

    def run(count: int, use: Use) -> None:
        for number in range(0, count, step):
            use_each(site, site.array[site.region(number, number + step)], use)

    return run


def dask_threads(site: Site) -> Run:
    """A graph with a task per stored object, and one that takes the first element of each chunk."""
    import dask.array

    step = site.work.per_shard
    side = site.work.side
    blocks = site.work.shards or site.work.chunks

    def run(count: int, use: Use) -> None:
        part = dask.array.from_zarr(site.array, chunks=blocks)[: count * side]
        firsts = part.map_blocks(lambda block: block[::side, :1], dtype="f4", chunks=((step,) * (count // step), (1,)))
        for first in firsts.compute(scheduler="threads", num_workers=THREADS):
            use(first)

    return run


def tensorstore(site: Site) -> Run:
    """Chunks asked for 16 ahead."""
    opened = open_tensorstore(site)

    def run(count: int, use: Use) -> None:
        take_in_order((opened[site.region(number, number + 1)].read() for number in range(count)), use)

    return run


def tensorstore_shards(site: Site) -> Run:
    """Whole shards asked for 16 ahead."""
    opened = open_tensorstore(site)
    step = site.work.per_shard

    def run(count: int, use: Use) -> None:
        reads = (opened[site.region(number, number + step)].read() for number in range(0, count, step))
        take_in_order(reads, lambda shard: use_each(site, shard, use))

    return run


def use_each(site: Site, values: np.ndarray, use: Use) -> None:
    """Use the chunks of what was read at once."""
    for begin in range(0, len(values), site.work.side):
        use(values[begin : begin + site.work.side])


READING = [
    Way(OURS, ours, places=EVERYWHERE),
    Way("naive limit", naive_limit, places=KEPT, sharded=False),
    Way("zarr loop", zarr_loop, places=EVERYWHERE),
    Way("zarr loop, whole shards", zarr_shards, sharded=True),
    Way("zarr whole", zarr_whole, places=EVERYWHERE),
    Way("zarr fused, loop", through(FUSED, zarr_loop), needs=FUSED, places=EVERYWHERE),
    Way("zarr over obstore, whole", over_obstore(zarr_whole), needs="obstore"),
    Way("zarrs loop", through(ZARRS, zarr_loop), needs="zarrs"),
    Way("dask threads", dask_threads, needs="dask", places=EVERYWHERE),
    Way("TensorStore", tensorstore, needs="tensorstore"),
    Way("TensorStore, whole shards", tensorstore_shards, needs="tensorstore", sharded=True),
]
