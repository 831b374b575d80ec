"""Writers that are killed at any instant lose nothing: the resumed run ends with the same keys and values."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from tests.cloud_services import S3_SECRET, S3_USER
from tests.clouds import CLOUD_ROWS, new_bucket
from tests.optional import require
from zarrstream import Checkpoint, open_store
from zarrstream.streaming.layout.grid import RUN_CHUNKS

if TYPE_CHECKING:
    from collections.abc import Iterator
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

    async def everything() -> dict[str, bytes]:
        values = {key: await store.get(key, default_buffer_prototype()) async for key in store.list()}
        return {key: value.to_bytes() for key, value in values.items() if value is not None}

    try:
        return asyncio.run(everything())
    finally:
        store.close()


def create(url: str, **options: Any) -> None:
    store = open_store(url)
    zarr.create_array(store, name="a", shape=SHAPE, chunks=CHUNKS, dtype="f4", **options)
    store.close()


@contextmanager
def opened(url: str) -> Iterator[zarr.Array[Any]]:
    store = open_store(url)
    yield zarr.open_array(store, path="a", mode="r")
    store.close()


def in_s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that this process, and every one that it starts, finds by the environment's variables."""
    require("s3fs")
    bucket = new_bucket(CLOUD_ROWS[0], request.getfixturevalue("minio"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3_USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{bucket.name}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind", ["sqlite", "directory", "sharded directory", pytest.param("s3", marks=pytest.mark.server)]
)
def test_killed_again_and_again(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After twenty kills at random instants: the same keys, values and bytes as an undisturbed run."""
    options: dict[str, Any] = {"shards": (60, 40)} if "sharded" in kind else {}
    place = {"sqlite": f"sqlite:///{tmp_path}", "s3": ""}.get(kind, str(tmp_path))
    place = place or in_s3(request, monkeypatch)
    urls = [f"{place}/{name}" for name in ("killed", "whole")]
    for url in urls:
        create(url, **options)
    write(urls[1], tmp_path / "whole.checkpoint")
    rng = random.Random(7)  # noqa: S311  # it chooses instants, not secrets
    path = tmp_path / "killed.checkpoint"
    kills, again = 0, 0
    while kills < KILLS:
        with opened(urls[0]) as array:
            pending = set(Checkpoint(path).pending(array))
        held = {tuple(map(int, key.split("/")[2:])) for key in stored(urls[0]) if key.startswith("a/c/")}
        if not options:
            in_flight = len(pending & held)  # stored and not recorded: what the next writer writes again
            assert in_flight <= CONCURRENCY * RUN_CHUNKS
            again += in_flight
        if len(pending) <= 15:  # begin anew, rather than run out of chunks to be killed in
            create(urls[0], overwrite=True, **options)
            path.unlink()
            continue
        write(urls[0], path, kill_after=rng.randrange(min(40, len(pending) - 5)))
        kills += 1
    lines = write(urls[0], path)
    assert lines[-1].startswith("report")
    with opened(urls[0]) as array:
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
