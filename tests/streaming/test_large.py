"""What must not grow with the array: memory, and the time to the first chunk."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

FIRST = """
import time, resource
import numpy as np, zarr
from zarrstream import stream_chunks
small = zarr.create_array({}, shape=(30, 30), chunks=(10, 10), dtype="i1", fill_value=3)
list(stream_chunks(small))  # what is loaded once is not the array's
array = zarr.create_array({}, shape=(10_000, 10_000, 100), chunks=(10, 10, 10), dtype="i1", fill_value=3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
stream = stream_chunks(array)
count = len(stream)
chunks = iter(stream)
next(chunks)
seconds = time.perf_counter() - start
chunks.close()
print(count, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

GIGABYTES = """
import resource, sys
import numpy as np, zarr
from zarrstream import stream_chunks, stream_slices, write_stream
way, folder = sys.argv[1:]
block = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype="u1").reshape(1024, 1024)
options = {"shape": (2048, 1024, 1024), "chunks": (1, 1024, 1024), "dtype": "u1"}
def items():
    for index in range(2048):
        yield (index, 0, 0), np.full((1, 1024, 1024), index % 251 + 1, dtype="u1") + block[None] % 2
if way == "write":
    array = zarr.create_array(f"{folder}/a", **options)
    write_stream(array, [((0, 0, 0), block[None])])  # what is loaded once is not the array's
else:
    array = zarr.open_array(f"{folder}/a")
    next(iter(stream_chunks(array, region=(slice(0, 1),))))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if way == "write":
    write_stream(array, items(), max_bytes=64 << 20)
else:
    stream = stream_chunks if way == "read" else stream_slices
    total = 0
    for chunk in stream(array, max_bytes=64 << 20):
        total += chunk.data.nbytes
    assert total == 2 << 30
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""

FAULTS = """
import resource
import numpy as np, zarr
from zarrstream import stream_chunks
list(stream_chunks(zarr.create_array({}, shape=(4,), chunks=(2,), dtype="i1", fill_value=3)))
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2 << 20, "u1")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *arguments: str) -> list[float]:
    """Run code in a process of its own, so that its peak of memory is its own; returns the numbers it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env=os.environ
    )
    return [float(word) for word in done.stdout.split()]


def test_ten_million_chunks() -> None:
    """The first chunk of ten million comes in under 50 ms with under 20 MB more memory."""
    count, seconds, kilobytes = min((run(FIRST) for _ in range(3)), key=lambda found: found[1])
    assert count == 10_000_000
    assert seconds < 0.05
    assert kilobytes < 20 * 1024


@pytest.mark.slow
def test_two_gibibytes_in_a_small_process(tmp_path: Path) -> None:
    """Streaming 2 GiB with `max_bytes=64 MiB` grows the process by less than 160 MiB, in and out."""
    for way in ("write", "read", "slices"):
        [mebibytes] = run(GIGABYTES, way, str(tmp_path))
        assert mebibytes < 160, way


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have rules of their own")
def test_pages_that_a_stream_frees_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that did nothing else, what is freed after a stream began is there for the next of its size."""
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)  # dask sets one for its workers: who says how malloc is to behave, has his way
    first, second = run(FAULTS)
    assert first > 400
    assert second < 100
