"""The main job on real input: reanalysed winds from NetCDF, through xarray, into SQLite and out again."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL

import numpy as np
import pytest
import zarr

import zarrstream
from tests import winds
from tests.optional import absent, require
from zarrstream.demo import field
from zarrstream.streaming.layout.grid import RUN_BYTES, RUN_CHUNKS
from zarrstream.streaming.options import cores

ROOT = Path(__file__).parents[1]
ERA_INTERIM = ROOT.parent / "shared" / "data" / "eraint_uvz.nc"

# The file declares a fill value that its packed integers cannot hold.
pytestmark = pytest.mark.filterwarnings("ignore:variable .* has non-conforming '_FillValue'")


@pytest.fixture(params=["ERA-Interim", "generated"])
def netcdf(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of winds: the real one, and for machines that do not have it one of the same form."""
    xarray = require("xarray")
    require("netCDF4")
    require("dask")
    if request.param == "ERA-Interim":
        if not ERA_INTERIM.exists():
            absent(f"the ERA-Interim winds are not at {ERA_INTERIM}")
        return ERA_INTERIM
    values = field((slice(0, 6), slice(0, 241), slice(0, 480))).reshape(2, 3, 241, 480) - 260.0
    values[0, 1, :61, :120] = np.nan  # equals the fill value: a chunk that is elided, on land say
    dimensions = tuple(winds.CHUNKS)
    dataset = xarray.Dataset({"u": (dimensions, values), "v": (dimensions, -values)})
    dataset.to_netcdf(tmp_path / "winds.nc")
    return tmp_path / "winds.nc"


def write(netcdf: Path, url: str, folder: Path, hold_at: int | None = None) -> list[tuple[int, int]]:
    """Run the writer, kill it where it holds, and return the lines that it printed, as numbers."""
    command = [sys.executable, "-m", "tests.winds", str(netcdf), url, str(folder)]
    if hold_at is not None:
        command += ["--hold-at", str(hold_at)]
    lines: list[tuple[int, int]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout
        for line in writer.stdout:
            done, rewritten = line.split()
            lines.append((int(done), int(rewritten)))
            if int(done) == hold_at:
                writer.kill()
                break
    assert writer.returncode == (0 if hold_at is None else -SIGKILL)
    return lines


def test_winds_survive_two_kills(netcdf: Path, tmp_path: Path) -> None:
    """Killed in the first variable and in the second, resumed each time, streamed out equal value by value."""
    import xarray

    original, url = winds.read(netcdf), f"sqlite:///{tmp_path}/winds.db"
    winds.lay_out(original, url)
    store = zarrstream.open_store(url, read_only=True)
    arrays = {name: zarr.open_array(store, path=name, mode="r") for name in winds.VARIABLES}
    total = sum(array.nchunks for array in arrays.values())
    assert [array.nchunks for array in arrays.values()] == [64, 64]

    assert write(netcdf, url, tmp_path, hold_at=23)[-1][0] == 23
    resumed = write(netcdf, url, tmp_path, hold_at=101)
    finished = write(netcdf, url, tmp_path)
    assert finished[-1][0] == total
    # Nothing that was acknowledged is written again, and of what was in flight no more than the threads had in hand.
    rewritten = sum(again for _, again in resumed + finished)
    assert len(resumed) + len(finished) < total - 23 + rewritten + 10
    nbytes = min(math.prod(array.chunks) * array.dtype.itemsize for array in arrays.values())
    run = max(1, min(RUN_CHUNKS, RUN_BYTES // nbytes))
    assert rewritten <= 2 * cores() * run  # two kills

    for name, array in arrays.items():
        out = np.full(array.shape, 9999.0)
        for chunk in zarrstream.stream_chunks(array):
            out[chunk.region] = chunk.data
        np.testing.assert_array_equal(out, original[name].values)
        for piece in zarrstream.stream_slices(array, axis="latitude", thickness=50):
            np.testing.assert_array_equal(piece.data, original[name].values[piece.region])
    xarray.testing.assert_identical(xarray.open_zarr(store, consolidated=False).load(), original)
