"""xarray and dask on every store, by store and by URL, in threads and in processes."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.optional import require
from tests.urls import url_params, urls
from zarrstream import StoreUnavailableError, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=url_params("store", "url"))
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A place for an array, as a store of ours and as a URL."""
    require("xarray")
    require("dask")
    scheme, kind = request.param
    for store_url, url in urls(scheme, tmp_path, request):
        yield open_store(store_url) if kind == "store" else url
        # It went there, and not to a folder called "sqlite:".
        store = open_store(store_url)
        assert store.mapping  # type: ignore[attr-defined]
        store.close()


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


def test_xarray_writes_regions(target: Any) -> None:
    """A dataset that was laid out is filled piece by piece, also from dask's chunks."""
    xarray, written = require("xarray"), dataset()[["wind"]]
    encoding = {"wind": {"chunks": (5, 30)}}
    written.chunk(time=5).to_zarr(target, compute=False, consolidated=False, encoding=encoding)
    for start in (15, 0, 10, 5):
        region = {"time": slice(start, start + 5)}
        written.isel(region).drop_vars("time").to_zarr(target, region=region, consolidated=False)
    with xarray.open_zarr(target, consolidated=False, chunks=None) as read:
        xarray.testing.assert_identical(read.load(), written)
    close(target)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_xarray_reads_consolidated_metadata(target: Any, zarr_format: Any) -> None:
    xarray, written = require("xarray"), dataset()[["wind"]]
    written.to_zarr(target, zarr_format=zarr_format, consolidated=True)
    with xarray.open_zarr(target, consolidated=True, chunks=None) as read:
        xarray.testing.assert_identical(read.load(), written)
    close(target)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_dask_writes_and_reads_an_array(target: Any, scheduler: str) -> None:
    """With processes, every task pickles the store and connects anew; an archive takes one process that writes."""
    pools = {"threads": ThreadPoolExecutor, "processes": partial(ProcessPoolExecutor, mp_context=get_context("spawn"))}
    dask = require("dask")
    dask_array = require("dask.array")
    values = np.arange(60 * 70).reshape(60, 70)
    with pools[scheduler](2) as pool, dask.config.set(scheduler=scheduler, pool=pool):
        array = dask_array.from_array(values, chunks=(20, 30))
        if scheduler == "processes" and str(target).startswith(("zip:", "zarrzip:")):
            with pytest.raises(StoreUnavailableError, match=f"process {os.getpid()} .* one writer"):
                dask_array.to_zarr(array, target)
            with dask.config.set(scheduler="synchronous"):
                dask_array.to_zarr(array, target, overwrite=True)
        else:
            dask_array.to_zarr(array, target)
        read = dask_array.from_zarr(target)
        assert read.chunksize == (20, 30)
        np.testing.assert_array_equal((read + 1).compute(), values + 1)
    del read
    close(target)
