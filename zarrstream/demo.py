"""The main job, end to end: a field streamed into a store, killed half-way, resumed, and read back value by value.

``zarrstream demo`` shows it; `run_demo` is what it calls. The writer is a real child process that gets a real SIGKILL:
``python -m zarrstream.demo --ingest URL CHECKPOINT``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zarr

from zarrstream import telemetry
from zarrstream.errors import StoreOptionError, ZarrStreamError
from zarrstream.recorder import recording
from zarrstream.stores.opening import open_store
from zarrstream.streaming.codecs.array import chunk_region
from zarrstream.streaming.read import stream_chunks
from zarrstream.streaming.write import write_stream
from zarrstream.streaming.writing.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy.typing as npt

    from zarrstream.streaming.chunk import Progress, Region

#: The array's name in the store: a store that the user brings keeps everything else that it holds.
ARRAY = "zarrstream-demo"
#: The N128 Gaussian grid of ERA-Interim's neighbours: latitudes x longitudes.
GRID = (256, 512)
#: 1 MiB of float32; four chunks cover the globe for eight days.
CHUNKS = (8, 128, 256)
DEFAULT_MEGABYTES = 256

_MAX_BYTES = 32 << 20  # in flight, either way: an eighth of the array, to show that the array need not fit
_GLOBE_BYTES = CHUNKS[0] * GRID[0] * GRID[1] * 4  # one chunk's days, all around
_DAYS = 365
# Values are whole multiples of this, all below 2**24 of it: float32 adds them exactly, in any order and block size.
_KELVIN = np.float32(1 / 64)


@dataclass(frozen=True, slots=True)
class Step:
    """How far the job is, as `run_demo` tells its ``show``.

    Parameters
    ----------
    name : str
        What is being done.
    done, total : int
        Chunks so far, and in all.
    note : str
        What happened, once, when it did.
    """

    name: str
    done: int
    total: int
    note: str = ""


Show: TypeAlias = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What came of the job.

    Parameters
    ----------
    store : str
        The URL that was written.
    chunks, nbytes : int
        The size of the array, decoded.
    killed_at : int
        Chunks that the first writer had reported when it was killed.
    rewritten : int
        Chunks written twice: they were in flight when the first writer was killed.
    seconds_in, seconds_out : float
        Wall time in which the two writers streamed, and of streaming back with the check of every value.
    peak_in, peak_out : int
        Peak resident bytes of the larger writer, and of this process.
    wrong : int
        Values that are not what was written.
    """

    store: str
    chunks: int
    nbytes: int
    killed_at: int
    rewritten: int
    seconds_in: float
    seconds_out: float
    peak_in: int
    peak_out: int
    wrong: int


def field(region: Region) -> npt.NDArray[np.float32]:
    """Make any block of a climate-like field: surface temperature by day, latitude and longitude.

    A seasonal cycle with opposite hemispheres, gradients along both axes, and weather from a hash of the position. A
    value depends on its own coordinates alone, so that any block can be made and checked by itself.

    Parameters
    ----------
    region : tuple of slice
        Half-open slices with both ends given: days (from 0, without end), rows and columns of `GRID`.

    Returns
    -------
    numpy.ndarray
        Kelvin as float32, in steps of 1/64 K.
    """
    days, rows, columns = (np.arange(part.start, part.stop, dtype=np.uint32) for part in region)
    cells = rows[:, None] * np.uint32(GRID[1]) + columns
    values = (_hash(_hash(days)[:, None, None] ^ cells) >> np.uint32(24)).astype(np.float32)
    values *= _KELVIN
    values += _seasons()[days % _DAYS][:, rows, None]
    values += _gradients()[rows][:, columns]
    return values


@functools.cache
def _seasons() -> npt.NDArray[np.float32]:
    """Return the zonal mean by day of the year and row."""
    latitudes = np.linspace(math.pi / 2, -math.pi / 2, GRID[0])
    year = np.cos(2 * math.pi * (np.arange(_DAYS) - 196) / _DAYS)  # warmest in mid-July, in the north
    return _steps(248 + 48 * np.cos(latitudes) ** 2 + 18 * np.sin(latitudes) * year[:, None])


@functools.cache
def _gradients() -> npt.NDArray[np.float32]:
    """Return the standing waves along each circle of latitude, by row and column."""
    latitudes, longitudes = np.linspace(-1, 1, GRID[0]), np.linspace(0, 2 * math.pi, GRID[1], endpoint=False)
    return _steps(6 * (1 - latitudes[:, None] ** 2) * np.cos(3 * longitudes))


def _steps(kelvin: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.rint(kelvin / _KELVIN).astype(np.float32) * _KELVIN


def _hash(counter: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Mix a counter to noise: the finalizer of MurmurHash3 (Austin Appleby, public domain)."""
    mixed = counter ^ (counter >> np.uint32(16))
    for factor, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        mixed *= np.uint32(factor)
        mixed ^= mixed >> np.uint32(shift)
    return mixed


def run_demo(
    store: str | None = None, *, megabytes: int = DEFAULT_MEGABYTES, show: Show | None = None, trace: Path | None = None
) -> DemoReport:
    """Stream a field into a store, kill the writer half-way, resume, stream it back, and check every value.

    Parameters
    ----------
    store : str, optional
        The URL of a store that other processes can open. The array ``zarrstream-demo`` in it is written anew and stays.
        By default a SQLite file in a temporary folder, removed at the end.
    megabytes : int, optional
        The array's size in MB (10**6 bytes), rounded up to whole chunks all around the globe.
    show : callable, optional
        Receives a `Step` whenever there is something to tell.
    trace : Path, optional
        A file to which the spans of all processes are appended: see `zarrstream.recorder.recording`.

    Returns
    -------
    DemoReport
        What happened; ``wrong`` is 0 where all is well.

    Raises
    ------
    StoreOptionError
        If the store lives in this process only.
    ZarrStreamError
        If a writer failed; it has said why on standard error.
    MissingExtraError
        If a trace is wanted, and OpenTelemetry's SDK is not there.
    """
    if store is not None and store.removeprefix("faulty+").startswith("memory:"):
        raise StoreOptionError(f"{store} lives in one process; the demo kills its writer, so it needs another store")
    with tempfile.TemporaryDirectory(prefix="zarrstream-demo-") as folder:
        url = store or f"sqlite:///{folder}/demo.db"
        array = _create(url, megabytes)
        with (
            contextlib.closing(array.store),
            recording(trace, "zarrstream demo") if trace else contextlib.nullcontext(),
        ):
            return _run(array, url, Path(folder) / "checkpoint", show or (lambda _: None), trace)


def ingest(url: str, checkpoint: Path, *, hold_at: int | None = None) -> None:
    """Write what is missing of the demo's array, and print a line of JSON per chunk: what the child process does.

    Parameters
    ----------
    url : str
        The store, in which the array exists.
    checkpoint : pathlib.Path
        What was written before.
    hold_at : int, optional
        So many chunks are done when it waits to be killed; writes are under way at that moment.
    """
    array = zarr.open_array(open_store(url), path=ARRAY, mode="r+")
    record = Checkpoint(checkpoint)
    pending = list(record.pending(array))
    there = array.nchunks - len(pending)
    begin = time.perf_counter()

    def tell(progress: Progress) -> None:
        _tell(there + progress.done, time.perf_counter() - begin)
        if hold_at is not None and there + progress.done >= hold_at:
            sys.stdin.read()

    source = ((index, field(chunk_region(array, index))) for index in pending)
    report = write_stream(array, source, checkpoint=record, max_bytes=_MAX_BYTES, progress=tell)
    _tell(there + report.written, report.seconds, rewritten=report.rewritten)


def _tell(done: int, seconds: float, **more: int) -> None:
    line = json.dumps({"done": done, "seconds": seconds, "peak": peak_memory(), **more})
    print(line, flush=True)  # noqa: T201 - the parent reads it


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes.

    ``getrusage`` includes the parent's, from between fork and exec; Linux's count of this program alone comes first.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _run(array: zarr.Array[Any], url: str, checkpoint: Path, show: Show, trace: Path | None) -> DemoReport:
    total = array.nchunks
    begun = _watch(url, checkpoint, lambda done: show(Step("write", done, total)), kill_at=total // 2, trace=trace)
    show(
        Step("write", begun["done"], total, f"the writer was killed (SIGKILL) after {begun['done']} of {total} chunks")
    )
    ended = _watch(url, checkpoint, lambda done: show(Step("resume", done, total)), trace=trace)
    show(Step("resume", ended["done"], total, f"resumed; chunks written twice: {ended['rewritten']}"))
    begin = time.perf_counter()
    wrong = _check(array, lambda done: show(Step("read back", done, total)))
    return DemoReport(
        store=url,
        chunks=total,
        nbytes=array.nbytes,
        killed_at=begun["done"],
        rewritten=ended["rewritten"],
        seconds_in=begun["seconds"] + ended["seconds"],
        seconds_out=time.perf_counter() - begin,
        peak_in=max(begun["peak"], ended["peak"]),
        peak_out=peak_memory(),
        wrong=wrong,
    )


def _create(url: str, megabytes: int) -> zarr.Array[Any]:
    days = CHUNKS[0] * math.ceil(megabytes * 1_000_000 / _GLOBE_BYTES)
    array = zarr.create_array(
        open_store(url),
        name=ARRAY,
        shape=(days, *GRID),
        chunks=CHUNKS,
        dtype="float32",
        fill_value=math.nan,
        dimension_names=("time", "latitude", "longitude"),
        attributes={"units": "K", "standard_name": "surface_temperature"},
        overwrite=True,
    )
    array.store.close()  # a zip publishes the array by this, and lets the writers write
    return array


def _watch(
    url: str, checkpoint: Path, show: Callable[[int], None], *, kill_at: int | None = None, trace: Path | None = None
) -> dict[str, Any]:
    """Run a writer, kill it when so many chunks are done, and return the last that it told."""
    command = [sys.executable, "-m", "zarrstream.demo", "--ingest", url, str(checkpoint)]
    if kill_at is not None:
        command += ["--hold-at", str(kill_at)]
    if trace is not None:
        command += ["--trace", str(trace), json.dumps(telemetry.headers())]
    last: dict[str, Any] = {"done": 0}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:  # noqa: S603 - our own
        try:
            for line in writer.stdout or ():
                before, last = last["done"], json.loads(line)
                if last["done"] > before:
                    show(last["done"])
                if kill_at is not None and last["done"] >= kill_at:
                    writer.kill()
                    break
        except BaseException:
            writer.kill()
            raise
    expected = 0 if kill_at is None else -signal.SIGKILL
    if writer.returncode != expected:
        raise ZarrStreamError(f"the demo's writer ended with {writer.returncode} after {last['done']} chunks of {url}")
    return last


def _check(array: zarr.Array[Any], show: Callable[[int], None]) -> int:
    """Stream the array back and return how many of its values are not the field's."""
    wrong = 0
    for done, chunk in enumerate(stream_chunks(array, max_bytes=_MAX_BYTES), 1):
        wrong += int(np.count_nonzero(chunk.data != field(chunk.region)))
        show(done)
    return wrong


def _main() -> None:
    parser = argparse.ArgumentParser(description="The writer of `zarrstream demo`, which starts it.")
    parser.add_argument("--ingest", nargs=2, metavar=("URL", "CHECKPOINT"), required=True)
    parser.add_argument("--hold-at", type=int, metavar="CHUNKS")
    parser.add_argument("--trace", nargs=2, metavar=("FILE", "HEADERS"))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.trace:
            stack.enter_context(recording(Path(options.trace[0])))
            stack.enter_context(telemetry.below(json.loads(options.trace[1])))
        ingest(options.ingest[0], Path(options.ingest[1]), hold_at=options.hold_at)


if __name__ == "__main__":
    _main()
