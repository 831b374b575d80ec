"""Stores that publish at `flush()`: a checkpoint believes what is published, whoever is killed; and no loop waits."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import WrapperStore

from tests.zip_files import content
from zarrstream import Checkpoint, aio, chunk_region, open_store, write_stream
from zarrstream.mappings.zip import ZipMapping
from zarrstream.streaming.writing import flush as publication
from zarrstream.streaming.writing.flush import Publication

if TYPE_CHECKING:
    from pathlib import Path

SHAPE, CHUNKS = (300, 40), (2, 40)
VALUES = np.arange(1, 12_001, dtype="f4").reshape(SHAPE)

WRITER = """
import sys, time
import numpy as np, zarr
from zarrstream import Checkpoint, chunk_region, open_store, write_stream
from zarrstream.streaming.writing import flush as publication

publication.BATCH = 10
url, path = sys.argv[1:]
store = url if url.startswith("zarrzip:") else open_store(url)
array = zarr.open_array(store, path="a", mode="r+")
values = np.arange(1, 12_001, dtype="f4").reshape(300, 40)
checkpoint = Checkpoint(path)

def source():
    for index in checkpoint.pending(array):
        print(index[0], flush=True)
        time.sleep(0.001)  # a source that takes its time, so that publications come in its midst
        yield index, values[chunk_region(array, index)]

report = write_stream(array, source(), checkpoint=checkpoint, concurrency=2)
print("report", report.written, report.lost, report.rewritten, flush=True)
"""


def create(path: Path) -> str:
    """Make an archive with an array in it, and return its URL."""
    url = f"zip:///{path}"
    store = open_store(url)
    zarr.create_array(store, name="a", shape=SHAPE, chunks=CHUNKS, dtype="f4")
    store.close()
    return url


def write(url: str, path: Path, *, kill_after: int | None = None) -> list[str]:
    """Run the writer in a process of its own; kill it when, after it recorded something, it announced so many chunks.

    Returns what it printed.
    """
    before = recorded(path)
    with subprocess.Popen([sys.executable, "-c", WRITER, url, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines: list[str] = []
        for line in child.stdout:
            lines.append(line.strip())
            if kill_after is not None and recorded(path) > before:
                kill_after -= 1
                if kill_after < 0:
                    os.kill(child.pid, signal.SIGKILL)
                    break
        child.wait()
    assert child.returncode in (0, -signal.SIGKILL)
    return lines


def recorded(path: Path) -> int:
    """Count the chunks in a checkpoint, as its text has them."""
    if not path.exists():
        return 0
    spans = [
        span.partition("-")
        for line in path.read_text().splitlines()[1:]
        for span in line.partition(" *")[0].split()[1:]
    ]
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


def check_kills(tmp_path: Path, scheme: str, kills: int) -> None:
    """Kill writers, and look after each: what is recorded is published. Then let one end."""
    rng, done = random.Random(7), 150  # noqa: S311  # it chooses instants, not secrets
    for kill in range(kills):
        if done > 110:  # begin anew, rather than run out of chunks to be killed in
            file, path = tmp_path / f"killed-{kill}.zip", tmp_path / f"checkpoint-{kill}"
            url = create(file).replace("zip:", f"{scheme}:", 1)
        lines = write(url, path, kill_after=rng.randrange(15))
        assert not lines[-1].startswith("report")
        published = content(file)
        pending = set(Checkpoint(path).pending(opened(url)))
        done = 150 - len(pending)
        assert all(f"a/c/{row}/0" in published for row in range(150) if (row, 0) not in pending)
        assert done == recorded(path) > 0  # nothing that was recorded is lost
    lines = write(url, path)
    assert lines[-1].startswith("report")
    assert len(lines) == 150 - done + 1  # what was recorded is not written again
    np.testing.assert_array_equal(opened(url)[...], VALUES)
    write(create(tmp_path / "whole.zip"), tmp_path / "whole.checkpoint")
    assert content(file) == content(tmp_path / "whole.zip")


def opened(url: str) -> zarr.Array:
    return zarr.open_array(url if url.startswith("zarrzip:") else open_store(url), path="a", mode="r")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["zip", "zarrzip"])
def test_a_writer_to_an_archive_is_killed_again_and_again(tmp_path: Path, scheme: str) -> None:
    """After ten kills: the same keys, values and bytes as an undisturbed run, by store and by URL."""
    check_kills(tmp_path, scheme, 10)


def test_a_writer_to_an_archive_is_killed_once(tmp_path: Path) -> None:
    """The same once, in the quick profile."""
    check_kills(tmp_path, "zip", 1)


@pytest.mark.parametrize("by", ["store", "wrapper", "url"])
def test_chunks_enter_the_checkpoint_after_publication(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the store is opened: while the source runs, what is recorded is in the file."""
    monkeypatch.setattr(publication, "BATCH", 8)
    monkeypatch.setattr(publication, "_PAUSE", 0)
    file, path = tmp_path / "x.zip", tmp_path / "checkpoint"
    url = create(file)
    store: Any = open_store(url)
    store = {"store": store, "wrapper": WrapperStore(store), "url": f"zarr{url}"}[by]
    array = zarr.open_array(store, path="a", mode="r+")
    seen = []

    def source() -> Any:
        for index in np.ndindex(150, 1):
            seen.append(count := recorded(path))
            assert count <= len([name for name in content(file) if name.startswith("a/c/")])
            yield index, VALUES[chunk_region(array, index)]

    report = write_stream(array, source(), checkpoint=Checkpoint(path), concurrency=1)
    assert report.written == 150
    assert 0 < max(seen) < 150
    assert recorded(path) == 150
    assert len([name for name in content(file) if name.startswith("a/c/")]) == 150
    ZipMapping(file).close()


async def test_publication_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the midst of a write nor at its end: it happens in a thread, and the loop goes on meanwhile."""
    monkeypatch.setattr(publication, "BATCH", 50)
    monkeypatch.setattr(publication, "_PAUSE", 0)
    url = create(tmp_path / "x.zip")
    array = zarr.open_array(open_store(url), path="a", mode="r+")
    loop, threads = asyncio.get_running_loop(), []
    flush = ZipMapping.flush

    def noted(mapping: ZipMapping) -> None:
        threads.append(threading.current_thread())
        turned = threading.Event()
        loop.call_soon_threadsafe(turned.set)
        assert turned.wait(10)  # a loop that was held up would not turn
        flush(mapping)

    monkeypatch.setattr(ZipMapping, "flush", noted)
    source = [(index, VALUES[chunk_region(array, index)]) for index in np.ndindex(150, 1)]
    report = await aio.write_stream(array, source, checkpoint=Checkpoint(tmp_path / "checkpoint"))
    monkeypatch.undo()
    assert report.written == 150
    assert len(threads) >= 2
    assert threading.current_thread() not in threads
    assert recorded(tmp_path / "checkpoint") == 150
    array.store.close()


async def test_a_cancelled_write_ends_its_publication_before_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that publishes cannot be stopped: the record is closed after it, and has what it published."""
    monkeypatch.setattr(publication, "BATCH", 50)
    url = create(tmp_path / "x.zip")
    array = zarr.open_array(open_store(url), path="a", mode="r+")
    began, go_on = asyncio.Event(), threading.Event()
    loop, flush = asyncio.get_running_loop(), ZipMapping.flush

    def held(mapping: ZipMapping) -> None:
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(10)
        flush(mapping)

    monkeypatch.setattr(ZipMapping, "flush", held)
    source = ((index, VALUES[chunk_region(array, index)]) for index in np.ndindex(150, 1))
    path = tmp_path / "checkpoint"
    task = asyncio.ensure_future(aio.write_stream(array, source, checkpoint=Checkpoint(path)))
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    array.store.close()
    assert 0 < recorded(path) <= len([name for name in content(tmp_path / "x.zip") if name.startswith("a/c/")])


def test_slow_publications_are_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes a second is not followed by another for four."""
    now = [100.0]
    monkeypatch.setattr(publication.time, "monotonic", lambda: now[0])

    def publish() -> None:
        now[0] += 1

    publications = Publication(publish)
    assert publications.is_needed
    assert [publications.is_due(waiting) for waiting in (0, 255, 256)] == [False, False, True]
    now[0] += 5
    assert [publications.is_due(waiting) for waiting in (0, 1)] == [False, True]
    publications.run()
    now[0] += 3.9
    assert not publications.is_due(10_000)
    now[0] += 0.2
    assert [publications.is_due(waiting) for waiting in (255, 256)] == [False, True]
    assert not Publication(None).is_needed
