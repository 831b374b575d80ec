"""Arguments that are nearly right: the error says what was given and what to pass instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from tests.optional import require
from zarrstream import aio, open_store, stream_chunks, stream_slices, write_stream
from zarrstream.errors import ChunkReadError, ChunkWriteError
from zarrstream.faults.script import Fault

if TYPE_CHECKING:
    from pathlib import Path


def group(*, empty: bool = False) -> zarr.Group:
    """Return a group, with two arrays in it or none."""
    made = zarr.create_group(MemoryStore())
    for name in () if empty else ("t2m", "wind"):
        made.create_array(name, shape=2, dtype="i4")
    return made


MISTAKES = {
    "group": (group, r"not zarr\.Group: it is a group: pass one of its arrays, group\['t2m'\], group\['wind'\]"),
    "empty group": (lambda: group(empty=True), "it is a group, and has no arrays"),
    "store": (MemoryStore, r"zarr\.open_array\(store, path=…\)"),
    "path": (lambda: "a.zarr", r"not str: open it with zarr\.open_array\('a\.zarr'\)"),
    "numpy": (lambda: np.zeros(3), r"not numpy\.ndarray: it is in memory already"),
    "source": (list, r"not list: the array comes first"),
    "generator": (lambda: (item for item in ()), "the array comes first"),
    "stream": (lambda: stream_chunks(group()["t2m"]), "the array comes first"),
    "number": (lambda: 5, r"not int: open it with zarr\.open_array\(store\)"),
}


@pytest.mark.parametrize("function", [stream_chunks, stream_slices, aio.stream_chunks, aio.stream_slices])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_something_near_to_an_array_is_told_what_to_pass(function: Any, mistake: str) -> None:
    """Groups, stores, paths and sources each lead to the array that was meant."""
    make, words = MISTAKES[mistake]
    with pytest.raises(TypeError, match=words):
        function(make())


def test_arguments_that_are_swapped_are_told() -> None:
    """``write_stream(source, array)`` is the other way round."""
    with pytest.raises(TypeError, match="the array comes first"):
        write_stream([], group()["t2m"])  # type: ignore[arg-type]


def test_an_array_of_xarray_or_dask_is_told_what_lies_beneath() -> None:
    """Labelled and lazy arrays are not read through: the zarr array is."""
    xarray, dask = require("xarray"), require("dask.array")
    for given, words in (
        (xarray.DataArray([1]), r"not xarray\.DataArray: pass the zarr array beneath"),
        (xarray.Dataset({"t": ("x", [1])}), r"not xarray\.Dataset: pass one zarr array"),
        (dask.zeros(3), r"not dask\.Array: a dask array is data"),
    ):
        with pytest.raises(TypeError, match=words):
            stream_chunks(given)


def test_an_awaited_stream_says_how_it_is_used() -> None:
    """A plain ``for`` over it names ``async for``."""
    with pytest.raises(TypeError, match="async for"):
        iter(aio.stream_chunks(group()["t2m"]))


def test_an_array_without_axes_has_no_slices() -> None:
    """Its one value comes from `stream_chunks`."""
    with pytest.raises(ValueError, match="stream_chunks gives its one value"):
        stream_slices(zarr.create_array(MemoryStore(), shape=(), dtype="i4"))


@pytest.mark.parametrize("kind", ["local", "sqlite"])
def test_a_chunk_error_names_the_store(kind: str, tmp_path: Path) -> None:
    """Of many arrays in a log, the message says which one it was."""
    store = LocalStore(tmp_path / "x") if kind == "local" else open_store(f"sqlite:///{tmp_path}/x.db")
    array = zarr.create_array(store, name="t2m", shape=8, chunks=2, dtype="i4")
    array[:] = 7
    zarr.core.sync.sync(store.set("t2m/c/3", zarr.core.buffer.cpu.Buffer.from_bytes(b"no frame")))
    with pytest.raises(ChunkReadError, match=r"chunk \(3,\) \(key 't2m/c/3' in \S+x") as caught:
        list(stream_chunks(array))
    assert str(store) in str(caught.value)


def test_a_chunk_that_cannot_be_stored_names_the_store(tmp_path: Path) -> None:
    """The error of a write names it as well."""
    store = open_store(
        f"faulty+sqlite:///{tmp_path}/x.db", faults=[Fault(kind="error", operation="set", key="t2m/c/*")]
    )
    array = zarr.create_array(store, name="t2m", shape=8, chunks=2, dtype="i4")
    with pytest.raises(ChunkWriteError, match=r"key 't2m/c/1' in \S+x\.db") as caught:
        write_stream(array, [((1,), np.ones(2, "i4"))])
    assert str(store) in str(caught.value)
