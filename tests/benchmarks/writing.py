"""The ways to write an array chunk by chunk, from values in memory into a place that has none."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numcodecs.blosc
import numcodecs.zstd
from zarr.core.buffer import default_buffer_prototype

from tests.benchmarks.sites import BLOSC
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
from zarrstream import write_stream

if TYPE_CHECKING:
    import numpy as np

    from tests.benchmarks.sites import Site


def ours(site: Site) -> Run:
    """`write_stream`."""

    def run(count: int, use: Use) -> None:
        write_stream(site.array, (((number, 0), site.item(number)) for number in range(count)))

    return run


def naive_limit(site: Site) -> Run:
    """Two threads that encode each chunk, write it to a temporary file and rename that: no order, checks or bounds."""
    encode = encoder(site.work.codec)
    files = f"{site.folder / 'array'}/c"

    def to_file(number: int) -> None:
        encoded = encode(site.item(number))
        path = f"{files}/{number}/0"
        os.makedirs(f"{files}/{number}", exist_ok=True)  # noqa: PTH103 - Path objects cost more than the call
        with open(path + ".partial", "wb") as file:  # noqa: PTH123 - the same
            file.write(encoded)
        os.replace(path + ".partial", path)  # noqa: PTH105 - the same

    def to_memory(number: int) -> None:
        buffer = default_buffer_prototype().buffer.from_bytes(encode(site.item(number)))
        site.store._store_dict[f"c/{number}/0"] = buffer

    one = to_file if site.work.place == "local" else to_memory

    def run(count: int, use: Use) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            take_in_order((pool.submit(one, number) for number in range(count)), ignore)

    return run


def encoder(codec: str):  # noqa: ANN201 - numcodecs has no types
    """Return what turns a chunk into its bytes."""

    def blosc(chunk: np.ndarray) -> bytes:
        return numcodecs.blosc.compress(chunk, BLOSC["cname"].encode(), BLOSC["clevel"], numcodecs.blosc.SHUFFLE)

    def zstd(chunk: np.ndarray) -> bytes:
        return numcodecs.zstd.compress(chunk, 1)

    return {"none": bytes, "zstd": zstd, "blosc": blosc}[codec]


def ignore(result: object) -> None:
    """Take note that a chunk is written."""


def zarr_loop(site: Site) -> Run:
    """One region after the other: chunks, or whole shards where there are any."""
    step = site.work.per_shard

    def run(count: int, use: Use) -> None:
        for number in range(0, count, step):
            region = site.region(number, number + step)
            site.array[region] = site.values[region]

    return run


def zarr_whole(site: Site) -> Run:
    """All of it in one call."""

    def run(count: int, use: Use) -> None:
        region = site.region(0, count)
        site.array[region] = site.values[region]

    return run


def dask_threads(site: Site) -> Run:
    """A graph with a task per stored object."""
    import dask.array

    blocks = site.work.shards or site.work.chunks

    def run(count: int, use: Use) -> None:
        region = site.region(0, count)
        part = dask.array.from_array(site.values[region], chunks=blocks, name=False)
        part.store(site.array, regions=region, lock=False, scheduler="threads", num_workers=THREADS)

    return run


def tensorstore(site: Site, *, sync: bool = False) -> Run:
    """Chunks, or whole shards, handed over 16 ahead; like the others, it does not wait for the disk."""
    opened = open_tensorstore(site, file_io_sync=sync)
    step = site.work.per_shard

    def run(count: int, use: Use) -> None:
        regions = (site.region(number, number + step) for number in range(0, count, step))
        take_in_order((opened[region].write(site.values[region]) for region in regions), ignore)

    return run


def tensorstore_synced(site: Site) -> Run:
    """The same as TensorStore does by default: each file is on the disk before it counts as written."""
    return tensorstore(site, sync=True)


WRITING = [
    Way(OURS, ours, places=EVERYWHERE),
    Way("naive limit", naive_limit, places=KEPT, sharded=False),
    Way("zarr loop", zarr_loop, places=EVERYWHERE),
    Way("zarr whole", zarr_whole, places=EVERYWHERE),
    Way("zarr fused, loop", through(FUSED, zarr_loop), needs=FUSED, places=EVERYWHERE),
    Way("zarr over obstore, whole", over_obstore(zarr_whole), needs="obstore"),
    Way("zarrs loop", through(ZARRS, zarr_loop), needs="zarrs"),
    Way("dask threads", dask_threads, needs="dask", places=EVERYWHERE),
    Way("TensorStore", tensorstore, needs="tensorstore"),
    Way("TensorStore, synced", tensorstore_synced, needs="tensorstore"),
]
