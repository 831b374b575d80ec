"""The ways to read an array in slices of thickness 1, through chunks that are much thicker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.ways import (
    FUSED,
    OURS,
    THREADS,
    ZARRS,
    Run,
    Use,
    Way,
    open_tensorstore,
    take_in_order,
    through,
)
from zarrstream import stream_slices

if TYPE_CHECKING:
    from tests.benchmarks.sites import Site


def ours(site: Site) -> Run:
    """`stream_slices`."""

    def run(count: int, use: Use) -> None:
        for piece in stream_slices(site.array, stop=count):
            use(piece.data)

    return run


def zarr_each(site: Site) -> Run:
    """``array[i]`` in a loop, as programs have it; each decodes all chunks that it cuts."""

    def run(count: int, use: Use) -> None:
        for number in range(count):
            use(site.array[number])

    return run


def zarr_whole(site: Site) -> Run:
    """All of it in one call, in memory; then slice by slice from there."""

    def run(count: int, use: Use) -> None:
        for piece in site.array[:count]:
            use(piece)

    return run


def dask_bands(site: Site) -> Run:
    """Bands of chunks computed by dask one by one, and cut in memory."""
    import dask.array

    def run(count: int, use: Use) -> None:
        whole = dask.array.from_zarr(site.array)
        for begin in range(0, count, site.work.step):
            band = whole[begin : begin + site.work.step].compute(scheduler="threads", num_workers=THREADS)
            for piece in band:
                use(piece)

    return run


def tensorstore(site: Site) -> Run:
    """Slices asked for 16 ahead; each decodes all chunks that it cuts, for the cache is off as everywhere."""
    opened = open_tensorstore(site)

    def run(count: int, use: Use) -> None:
        take_in_order((opened[number].read() for number in range(count)), use)

    return run


SLICING = [
    Way(OURS, ours),
    Way("zarr array[i]", zarr_each),
    Way("zarr whole", zarr_whole),
    Way("zarr fused, array[i]", through(FUSED, zarr_each), needs=FUSED),
    Way("zarrs array[i]", through(ZARRS, zarr_each), needs="zarrs"),
    Way("dask, band by band", dask_bands, needs="dask"),
    Way("TensorStore", tensorstore, needs="tensorstore"),
]
