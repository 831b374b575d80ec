"""xarray and dask on SQLite, by store and by URL, in threads and in processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.optional import require
from zarrstream import open_store
from zarrstream.mappings.sqlite import SQLiteMapping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["store", "url"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A place for an array, as a store of ours and as a URL."""
    require("xarray")
    require("dask")
    url = f"sqlite:///{tmp_path}/x.db"
    yield open_store(url) if request.param == "store" else url
    assert SQLiteMapping(tmp_path / "x.db")  # it went there, and not to a folder called "sqlite:"


def close(target: Any) -> None:
    """Release a store's connections; a URL holds none."""
    if not isinstance(target, str):
        target.close()


def dataset() -> Any:
    values = np.random.default_rng(0).random((20, 30))
    return require("xarray").Dataset(
        {"wind": (("time", "x"), values), "name": ("x", [f"station {number}" for number in range(30)])},
        coords={"time": np.arange("2000-01", "2001-09", dtype="datetime64[M]").astype("datetime64[ns]")},
        attrs={"title": "winds"},
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")  # of strings, in the older zarr
@pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification")  # of strings, in the newer
def test_xarray_writes_appends_and_reads_a_dataset(target: Any, zarr_format: Any) -> None:
    xarray, written = require("xarray"), dataset()
    options = {"zarr_format": zarr_format, "consolidated": False}
    written.isel(time=slice(15)).to_zarr(target, mode="w", **options)
    written.isel(time=slice(15, None)).to_zarr(target, append_dim="time", **options)
    with xarray.open_zarr(target, consolidated=False, chunks=None) as read:
        xarray.testing.assert_identical(read.load(), written)
    close(target)


def test_xarray_reads_consolidated_metadata(target: Any) -> None:
    xarray, written = require("xarray"), dataset()[["wind"]]
    written.to_zarr(target, zarr_format=2, consolidated=True)
    with xarray.open_zarr(target, consolidated=True, chunks=None) as read:
        xarray.testing.assert_identical(read.load(), written)
    close(target)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_dask_writes_and_reads_an_array(target: Any, scheduler: str) -> None:
    """With processes, every task pickles the store and connects anew."""
    pools = {"threads": ThreadPoolExecutor, "processes": partial(ProcessPoolExecutor, mp_context=get_context("spawn"))}
    dask = require("dask")
    dask_array = require("dask.array")
    values = np.arange(60 * 70).reshape(60, 70)
    with pools[scheduler](2) as pool, dask.config.set(scheduler=scheduler, pool=pool):
        dask_array.to_zarr(dask_array.from_array(values, chunks=(20, 30)), target)
        read = dask_array.from_zarr(target)
        assert read.chunksize == (20, 30)
        np.testing.assert_array_equal((read + 1).compute(), values + 1)
    del read
    close(target)
