"""The main job, end to end, and the field that it moves."""

from __future__ import annotations

import math
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from zarrstream import demo
from zarrstream.errors import StoreOptionError, ZarrStreamError
from zarrstream.stores.opening import open_store

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS = demo.GRID
WHOLE = demo.field((slice(0, 12), slice(0, 40), slice(0, 50)))


def plain_hash(counter: int) -> int:
    """MurmurHash3's finalizer in Python's whole numbers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        counter = (counter ^ (counter >> shift)) * factor % 2**32
    return counter


def plain_value(day: int, row: int, column: int) -> float:
    """The field's definition, one value at a time: an oracle without numpy."""
    latitude = math.pi / 2 - math.pi * row / (ROWS - 1)
    season = 248 + 48 * math.cos(latitude) ** 2
    season += 18 * math.sin(latitude) * math.cos(2 * math.pi * (day % 365 - 196) / 365)
    wave = 6 * (1 - (2 * row / (ROWS - 1) - 1) ** 2) * math.cos(3 * 2 * math.pi * column / COLUMNS)
    weather = plain_hash(plain_hash(day) ^ (row * COLUMNS + column)) >> 24
    return (weather + round(season * 64) + round(wave * 64)) / 64


@given(day=st.integers(0, 2**32 - 2), row=st.integers(0, ROWS - 1), column=st.integers(0, COLUMNS - 1))
def test_a_value_of_the_field_depends_on_its_place_alone(day: int, row: int, column: int) -> None:
    """One value, made alone, is what the definition says."""
    value = demo.field((slice(day, day + 1), slice(row, row + 1), slice(column, column + 1)))
    assert value.item() == plain_value(day, row, column)


@given(st.data())
def test_a_block_of_the_field_is_a_part_of_the_whole(data: st.DataObject) -> None:
    """Any block equals the same part of a larger one."""
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in WHOLE.shape]
    region = tuple(slice(*pair) for pair in bounds)
    block = demo.field(region)
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block, WHOLE[region])


def test_the_field_is_like_a_climate() -> None:
    """Temperatures of the Earth: warm at the equator, seasons that are opposite in the hemispheres, and weather."""
    globe = demo.field((slice(0, 365), slice(0, ROWS), slice(7, 9)))
    assert 200 < globe.min() < globe.max() < 330
    zonal = globe.mean(axis=2)
    assert zonal[:, ROWS // 2].mean() > zonal[:, 0].mean() + 30
    north, south = zonal[:, ROWS // 4], zonal[:, -ROWS // 4]
    assert north[180:212].mean() > north[0:31].mean() + 15
    assert south[180:212].mean() < south[0:31].mean() - 15
    assert len(np.unique(globe[:, 0, 0])) > 100


def test_the_job_runs_on_an_archive(tmp_path: Path) -> None:
    """A zip, which has one writer at a time and publishes at the end, is written by the killed and the next process."""
    report = demo.run_demo(f"zip:///{tmp_path}/demo.zip", megabytes=30)
    assert (report.chunks, report.wrong) == (32, 0)


def test_the_job_ends_with_every_value_right() -> None:
    """Killed once half-way, resumed, read back; hardly anything is written twice, and nothing is left."""
    steps: list[demo.Step] = []
    report = demo.run_demo(megabytes=30, show=steps.append)
    assert (report.chunks, report.nbytes, report.wrong) == (32, 32 << 20, 0)
    assert report.killed_at == 16
    assert 0 <= report.rewritten <= 8
    assert min(report.seconds_in, report.seconds_out, report.peak_in, report.peak_out) > 0
    assert [step.done for step in steps if step.name == "write" and not step.note] == list(range(1, 17))
    resumed = [step.done for step in steps if step.name == "resume" and not step.note]
    assert resumed == list(range(resumed[0], 33))
    assert resumed[0] >= 17 - report.rewritten
    assert [step.done for step in steps if step.name == "read back"] == list(range(1, 33))
    assert [step.note for step in steps if "SIGKILL" in step.note] == [steps[16].note]
    with pytest.raises(ZarrStreamError):
        open_array(report.store)


def open_array(url: str) -> zarr.Array[Any]:
    """Open what the demo wrote."""
    try:
        return zarr.open_array(open_store(url, read_only=True), path=demo.ARRAY)
    except FileNotFoundError as error:
        raise ZarrStreamError("nothing there") from error


@pytest.mark.parametrize("scheme", ["sqlite:///", "file://", ""])
def test_a_store_that_is_named_is_kept(scheme: str, tmp_path: Path) -> None:
    """The array stays where the user wanted it, beside what was there before."""
    url = f"{scheme}{tmp_path}/mine"
    zarr.create_array(open_store(url), name="other", data=np.arange(3))
    report = demo.run_demo(url, megabytes=8)
    assert (report.store, report.wrong) == (url, 0)
    array = open_array(url)
    np.testing.assert_array_equal(array[3:5, 100:150], demo.field((slice(3, 5), slice(100, 150), slice(0, COLUMNS))))
    assert zarr.open_array(open_store(url), path="other")[...].tolist() == [0, 1, 2]
    assert demo.run_demo(url, megabytes=4).chunks == 4


def test_a_wrong_value_is_found(tmp_path: Path) -> None:
    """The check sees a single value that is not the field's, and a chunk that is not there."""
    url = f"sqlite:///{tmp_path}/mine"
    demo.run_demo(url, megabytes=8)
    array = zarr.open_array(open_store(url), path=demo.ARRAY)
    array[9, 9, 9] += 1
    assert demo._check(array, lambda _: None) == 1
    del open_store(url).mapping[f"{demo.ARRAY}/c/0/0/1"]  # type: ignore[attr-defined]
    assert demo._check(array, lambda _: None) == 1 + math.prod(demo.CHUNKS)


def test_a_store_of_one_process_is_refused() -> None:
    """What is in this process's memory cannot be written by another that is killed."""
    with pytest.raises(StoreOptionError, match="one process"):
        demo.run_demo("memory://here")


def test_a_writer_that_fails_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A writer that cannot write says why on standard error, and the job ends with an error."""
    with pytest.raises(ZarrStreamError, match="ended with 1 after 0 chunks"):
        demo._watch(f"sqlite:///{tmp_path}/absent.db", tmp_path / "checkpoint", lambda _: None)
    assert demo.ARRAY in capfd.readouterr().err


def test_a_job_that_is_interrupted_leaves_no_writer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever ends the job, also by its `show`, ends the writer."""
    url = f"sqlite:///{tmp_path}/mine"
    demo._create(url, 30)
    writers: list[Any] = []

    class Watched(demo.subprocess.Popen):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            writers.append(self)

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo.subprocess, "Popen", Watched)
        with pytest.raises(KeyboardInterrupt):
            demo._watch(url, tmp_path / "checkpoint", interrupt)
    assert [writer.returncode for writer in writers] == [-signal.SIGKILL]


def test_peak_memory_is_counted_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Linux's own count is not to be had, the standard library's comes close to it."""
    pytest.importorskip("resource", reason="Windows has none")
    counted = demo.peak_memory()
    monkeypatch.setattr(demo.Path, "exists", lambda _: False)
    assert counted * 0.5 < demo.peak_memory() < counted * 4
