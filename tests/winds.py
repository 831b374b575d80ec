"""Winds on pressure levels, laid out in a store by xarray and streamed in by a process that can be killed.

``python -m tests.winds NETCDF URL FOLDER [--hold-at CHUNKS]`` writes what is missing, with a checkpoint per variable in
the folder, and prints a line per chunk: how many are done by now, and how many of them were written twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import zarr

import zarrstream

if TYPE_CHECKING:
    import xarray

VARIABLES = ("u", "v")
CHUNKS = {"month": 1, "level": 2, "latitude": 61, "longitude": 120}  # levels and latitudes end with a smaller chunk


def read(netcdf: Path) -> xarray.Dataset:
    """Read the winds of a file into memory."""
    import xarray

    with xarray.open_dataset(netcdf) as dataset:
        return dataset[[*VARIABLES]].drop_encoding().load()


def lay_out(winds: xarray.Dataset, url: str) -> None:
    """Write the coordinates and the metadata, and leave the chunks of the winds to a stream."""
    encoding = {name: {"chunks": tuple(CHUNKS.values())} for name in VARIABLES}
    store = zarrstream.open_store(url)
    winds.chunk(CHUNKS).to_zarr(store, encoding=encoding, compute=False, zarr_format=3, consolidated=False)


def main() -> None:
    """Stream in what is missing; wait to be killed where that is wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("netcdf", type=Path)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hold-at", type=int)
    options = parser.parse_args()
    winds, store = read(options.netcdf), zarrstream.open_store(options.url)
    before = 0
    for name in VARIABLES:
        array = zarr.open_array(store, path=name)
        checkpoint = zarrstream.Checkpoint(options.folder / name)
        pending = list(checkpoint.pending(array))
        before += array.nchunks - len(pending)

        def tell(progress: zarrstream.Progress, before: int = before) -> None:
            print(before + progress.done, 0, flush=True)
            if before + progress.done == options.hold_at:
                sys.stdin.read()

        source = ((index, winds[name].values[zarrstream.chunk_region(array, index)]) for index in pending)
        report = zarrstream.write_stream(array, source, checkpoint=checkpoint, progress=tell)
        before += report.written
        print(before, report.rewritten, flush=True)


if __name__ == "__main__":
    main()
