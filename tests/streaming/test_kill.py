"""Writers that are killed at any instant lose nothing: the resumed run ends with the same keys and values."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from zarrstream import Checkpoint, open_store
from zarrstream.streaming.grid import RUN_CHUNKS

if TYPE_CHECKING:
    from pathlib import Path

SHAPE, CHUNKS = (600, 40), (2, 40)  # 300 small chunks: several runs of many each
CONCURRENCY = 2
KILLS = 20

WRITER = """
import sys
import numpy as np, zarr
from zarrstream import Checkpoint, chunk_region, open_store, write_stream

url, path, shards = sys.argv[1:]
array = zarr.open_array(open_store(url), path="a", mode="r+")

def value(index):
    region = chunk_region(array, index)
    data = np.add.outer(np.arange(600.0)[region[0]], np.arange(40.0)[region[1]]).astype("f4")
    return data * (index[0] % 7 != 3)  # every seventh chunk equals the fill value and is elided

def source():
    for index in checkpoint.pending(array):
        print(index[0], flush=True)
        yield index, value(index)

checkpoint = Checkpoint(path)
report = write_stream(array, source(), checkpoint=checkpoint, concurrency=2)
print("report", report.written, report.lost, report.rewritten, flush=True)
"""


def expected() -> np.ndarray:
    values = np.add.outer(np.arange(600.0), np.arange(40.0)).astype("f4")
    values[(np.arange(600) // 2) % 7 == 3] = 0
    return values


def write(url: str, path: Path, *, kill_after: int | None = None) -> list[str]:
    """Run the writer in a process of its own; kill it when it has announced so many chunks. Returns what it printed."""
    command = [sys.executable, "-c", WRITER, url, str(path), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line.strip())
            if kill_after is not None and len(lines) > kill_after:
                os.kill(child.pid, signal.SIGKILL)
                break
        child.wait()
    assert child.returncode in (0, -signal.SIGKILL)
    return lines


def stored(url: str) -> dict[str, bytes]:
    """Every key and value of a store, through its own face."""
    store = open_store(url)
    keys = zarr.core.sync.collect_aiterator(store.list())
    return {key: store.get_sync(key).to_bytes() for key in keys}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "directory", "sharded directory"])
def test_killed_again_and_again(kind: str, tmp_path: Path) -> None:
    """After twenty kills at random instants: the same keys, values and bytes as an undisturbed run."""
    options: dict[str, Any] = {"shards": (60, 40)} if "sharded" in kind else {}
    urls = [
        f"sqlite:///{tmp_path}/{name}.db" if kind == "sqlite" else f"{tmp_path}/{name}" for name in ("killed", "whole")
    ]
    for url in urls:
        zarr.create_array(open_store(url), name="a", shape=SHAPE, chunks=CHUNKS, dtype="f4", **options)
    write(urls[1], tmp_path / "whole.checkpoint")
    rng = random.Random(7)  # noqa: S311  # it chooses instants, not secrets
    path = tmp_path / "killed.checkpoint"
    kills, again = 0, 0
    while kills < KILLS:
        array = zarr.open_array(open_store(urls[0]), path="a", mode="r")
        pending = set(Checkpoint(path).pending(array))
        held = {tuple(map(int, key.split("/")[2:])) for key in stored(urls[0]) if key.startswith("a/c/")}
        if not options:
            in_flight = len(pending & held)  # stored and not recorded: what the next writer writes again
            assert in_flight <= CONCURRENCY * RUN_CHUNKS
            again += in_flight
        if len(pending) <= 15:  # begin anew, rather than run out of chunks to be killed in
            zarr.create_array(
                open_store(urls[0]), name="a", shape=SHAPE, chunks=CHUNKS, dtype="f4", overwrite=True, **options
            )
            path.unlink()
            continue
        write(urls[0], path, kill_after=rng.randrange(min(40, len(pending) - 5)))
        kills += 1
    lines = write(urls[0], path)
    assert lines[-1].startswith("report")
    array = zarr.open_array(open_store(urls[0]), path="a", mode="r")
    np.testing.assert_array_equal(array[...], expected())
    assert list(Checkpoint(path).pending(array)) == []
    killed, whole = map(stored, urls)
    assert killed == whole
    assert not [key for key in killed if "zarrstream" in key]
    print(f"{kind}: {KILLS} kills, {again} chunks written again")  # noqa: T201 - a figure for whoever runs with -s


def test_killed_once(tmp_path: Path) -> None:
    """The same once, in the quick profile."""
    url = f"sqlite:///{tmp_path}/a.db"
    zarr.create_array(open_store(url), name="a", shape=SHAPE, chunks=CHUNKS, dtype="f4")
    write(url, tmp_path / "c", kill_after=200)
    lines = write(url, tmp_path / "c")
    assert lines[-1].startswith("report")
    assert len(lines) <= 300 - (200 - (CONCURRENCY + 1) * RUN_CHUNKS)  # in flight, or gathered for a run
    np.testing.assert_array_equal(zarr.open_array(open_store(url), path="a", mode="r")[...], expected())
