"""Grids whose chunks have several sizes are refused, by name and at once, by whatever takes an array."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import zarr

import zarrstream
from zarrstream import Checkpoint, aio
from zarrstream.errors import UnsupportedArrayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def _awaited_pending(array: zarr.Array) -> None:
    async for _ in Checkpoint("never made", place="here").apending(array):
        pass


#: Everything public that takes an array.
TAKERS: dict[str, Callable[[zarr.Array], Any]] = {
    "zarrstream.stream_chunks": zarrstream.stream_chunks,
    "zarrstream.stream_slices": zarrstream.stream_slices,
    "zarrstream.write_stream": lambda array: zarrstream.write_stream(array, []),
    "zarrstream.chunk_region": lambda array: zarrstream.chunk_region(array, (0,)),
    "zarrstream.Checkpoint.pending": lambda array: Checkpoint("never made", place="here").pending(array),
    "zarrstream.Checkpoint.apending": _awaited_pending,
    "zarrstream.aio.stream_chunks": aio.stream_chunks,
    "zarrstream.aio.stream_slices": aio.stream_slices,
    "zarrstream.aio.write_stream": lambda array: aio.write_stream(array, []),
}


@pytest.mark.parametrize("path", ["", "a/b"])
@pytest.mark.parametrize("grid", [{"chunks": [[1, 2, 3]]}, {"chunks": (1,), "shards": [[2, 4]]}])
@pytest.mark.parametrize("taker", TAKERS)
async def test_a_rectilinear_grid_is_refused_by_name(taker: str, grid: dict[str, Any], path: str) -> None:
    """The message has the kind of the grid, the array, also at the root of a store, and what to do."""
    if "array.rectilinear_chunks" not in zarr.config:
        with pytest.raises((TypeError, ValueError)):  # this zarr cannot even make one
            zarr.create_array({}, shape=(6,), dtype="i4", **grid)
        return
    with zarr.config.set({"array.rectilinear_chunks": True}):
        array = zarr.create_array({}, name=path or None, shape=(6,), dtype="i4", **grid)
        named = "array 'a/b' in memory:" if path else "the array at the root of memory:"
        with pytest.raises(UnsupportedArrayError, match=rf"^{named}.* has a rectilinear chunk grid.*copy it into"):
            await TAKERS[taker](array) if "aio.write" in taker or "apending" in taker else TAKERS[taker](array)


def test_everything_that_takes_an_array_is_held_to_it() -> None:
    """A new one has to be added to the table."""
    found = set()
    for where, scope in (("zarrstream", zarrstream), ("zarrstream.aio", aio)):
        for name in scope.__all__:
            value = getattr(scope, name)
            methods = vars(value).items() if inspect.isclass(value) else ()
            for path, call in [(name, value), *((f"{name}.{method}", made) for method, made in methods)]:
                if inspect.isfunction(call) and "array" in inspect.signature(call).parameters:
                    found.add(f"{where}.{path}")
    assert found == set(TAKERS)


def test_nothing_is_made_for_one_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of a checkpoint, and no chunk."""
    if "array.rectilinear_chunks" not in zarr.config:
        pytest.skip("this zarr has no rectilinear grids")
    monkeypatch.chdir(tmp_path)
    with zarr.config.set({"array.rectilinear_chunks": True}):
        array = zarr.create_array({}, shape=(6,), dtype="i4", chunks=[[1, 2, 3]])
        with pytest.raises(UnsupportedArrayError):
            zarrstream.write_stream(array, [], checkpoint=Checkpoint("c", place="here"))
    assert not list(tmp_path.iterdir())
