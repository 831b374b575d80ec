"""The ratios that are asked for, ours to a peer's, by row. They are shown beside what was measured, not judged."""

from __future__ import annotations

import sys

from tests.benchmarks.works import SHARD, THICKNESS

#: Row -> peer -> how many times as fast as that peer we are to be, at least.
REQUIRED: dict[str, dict[str, float]] = {
    "read zstd 1 MiB, local": {"naive limit": 1.0, "TensorStore": 1.3, "zarr loop": 4.0, "zarrs loop": 3.2},
    "read zstd 16 KiB, local": {"naive limit": 2.2, "TensorStore": 1.4, "zarr loop": 25.0},
    "read none 1 MiB, local": {"naive limit": 1.3, "TensorStore": 2.4, "zarr loop": 7.5},
    "read blosc 256 KiB, local": {"naive limit": 1.25, "TensorStore": 1.25, "zarr loop": 9.5},
    "write zstd 1 MiB, local": {"naive limit": 0.8, "zarr loop": 2.6, "TensorStore": 1.0},
    "write zstd 16 KiB, local": {"zarr loop": 9.0, "TensorStore": 1.5},
    "write zstd 16 KiB, SQLite": {"zarr loop": 11.0},
    "read zstd 16 KiB, SQLite": {"zarr loop": 18.0},
    "write zstd 16 KiB, LMDB": {"zarr loop": 15.0},
    "read zstd 16 KiB, LMDB": {"zarr loop": 25.0},
    f"slices through chunks of {THICKNESS}, local": {"zarr array[i]": 25.0},
    f"read zstd 16 KiB, {SHARD} to a shard": {"zarr loop": 40.0, "zarr loop, whole shards": 12.0, "TensorStore": 1.2},
}

#: The oldest Python, with the oldest zarr, is held to two thirds.
SHARE = 1.0 if sys.version_info >= (3, 12) else 2 / 3


def required(row: str, peer: str) -> float | None:
    """Return the ratio that is asked for, if one is."""
    ratio = REQUIRED.get(row, {}).get(peer)
    return None if ratio is None else ratio * SHARE
