"""A part of an array is named in one way, and every function that takes one reads it alike."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import zarrstream
from zarrstream import Checkpoint, aio, stream_chunks, stream_slices, write_stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("time", "lat", "lon")
WHOLE = [slice(0, 12), slice(0, 6), slice(0, 4)]


def named(zarr_format: Any = 3, attribute: Any = NAMES) -> zarr.Array:
    """Make an array with dimension names: format 3's own, or xarray's in format 2."""
    names: dict[str, Any] = {"dimension_names": NAMES}
    if zarr_format == 2:
        names = {"attributes": {"_ARRAY_DIMENSIONS": list(attribute) if attribute is NAMES else attribute}}
    made = zarr.create_array({}, shape=(12, 6, 4), chunks=(2, 3, 4), dtype="i4", zarr_format=zarr_format, **names)
    made[...] = np.arange(288).reshape(12, 6, 4)
    return made


async def _everything(stream: Any) -> np.ndarray:
    out = np.full((12, 6, 4), -1, "i4")
    async for item in stream:
        out[item.region] = item.data
    return out


async def _by_chunks(array: zarr.Array, region: Any, _: Path) -> np.ndarray:
    out = np.full(array.shape, -1, "i4")
    for chunk in stream_chunks(array, region=region):
        out[chunk.region] = chunk.data
    return out


async def _by_slices(array: zarr.Array, region: Any, _: Path) -> np.ndarray:
    out = np.full(array.shape, -1, "i4")
    for piece in stream_slices(array, "lat", region=region):
        out[piece.region] = piece.data
    return out


async def _by_awaited_chunks(array: zarr.Array, region: Any, _: Path) -> np.ndarray:
    return await _everything(aio.stream_chunks(array, region=region))


async def _by_awaited_slices(array: zarr.Array, region: Any, _: Path) -> np.ndarray:
    return await _everything(aio.stream_slices(array, "lon", region=region))


def _taken(array: zarr.Array, indices: list[tuple[int, ...]], region: Any) -> np.ndarray:
    """Return the values of chunks, cut to the region that streams cut to."""
    out = np.full(array.shape, -1, "i4")
    for index in indices:
        out[zarrstream.chunk_region(array, index)] = array[zarrstream.chunk_region(array, index)]
    mask = np.zeros(array.shape, bool)
    for chunk in stream_chunks(array, region=region):
        mask[chunk.region] = True
    return np.where(mask, out, -1)


async def _by_pending(array: zarr.Array, region: Any, folder: Path) -> np.ndarray:
    checkpoint = Checkpoint(folder / "c", place="here")
    return _taken(array, list(checkpoint.pending(array, region=region)), region)


async def _by_awaited_pending(array: zarr.Array, region: Any, folder: Path) -> np.ndarray:
    checkpoint = Checkpoint(folder / "c", place="here")
    return _taken(array, [index async for index in checkpoint.apending(array, region=region)], region)


#: Every public function that takes a region, by where it is found.
READERS: dict[str, Callable[[zarr.Array, Any, Path], Any]] = {
    "zarrstream.stream_chunks": _by_chunks,
    "zarrstream.stream_slices": _by_slices,
    "zarrstream.aio.stream_chunks": _by_awaited_chunks,
    "zarrstream.aio.stream_slices": _by_awaited_slices,
    "zarrstream.Checkpoint.pending": _by_pending,
    "zarrstream.Checkpoint.apending": _by_awaited_pending,
}
every_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)

#: Ways to write a region, and what is meant by it.
REGIONS: dict[str, tuple[Any, dict[int, slice]]] = {
    "none": (None, {}),
    "ellipsis": (..., {}),
    "nothing of a tuple": ((), {}),
    "slice": (slice(2, 5), {0: slice(2, 5)}),
    "open slice": (slice(None), {}),
    "tuple": (np.s_[2:5, 3:], {0: slice(2, 5), 1: slice(3, 6)}),
    "list": ([slice(2, 5)], {0: slice(2, 5)}),
    "behind an ellipsis": (np.s_[..., 1:3], {2: slice(1, 3)}),
    "around an ellipsis": (np.s_[:4, ..., 1:3], {0: slice(0, 4), 2: slice(1, 3)}),
    "an ellipsis for nothing": (np.s_[:4, :, ..., 1:3], {0: slice(0, 4), 2: slice(1, 3)}),
    "from the end": (np.s_[-3:-1], {0: slice(9, 11)}),
    "beyond the end": (np.s_[9:99], {0: slice(9, 12)}),
    "numpy's numbers": (np.s_[np.int64(2) : np.uint8(5)], {0: slice(2, 5)}),
    "step of one": (np.s_[2:5:1], {0: slice(2, 5)}),
    "name": ({"time": slice(2, 5)}, {0: slice(2, 5)}),
    "names": ({"lon": slice(1, None), "time": slice(-3, None)}, {0: slice(9, 12), 2: slice(1, 4)}),
    "number of an axis": ({-1: slice(1, 3)}, {2: slice(1, 3)}),
    "no name": ({}, {}),
}


@pytest.mark.parametrize("way", REGIONS)
@every_reader
async def test_a_region_means_the_same_everywhere(reader: Any, way: str, tmp_path: Path) -> None:
    """Numpy's slices, an ellipsis, and dimensions by name."""
    given, meant = REGIONS[way]
    array = named()
    wanted = np.full(array.shape, -1, "i4")
    where = tuple(meant.get(axis, part) for axis, part in enumerate(WHOLE))
    wanted[where] = array[where]
    np.testing.assert_array_equal(await reader(array, given, tmp_path), wanted)


#: What is no region, and what the message says.
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "text": ("0:5", TypeError, r"not '0:5': write numpy\.s_\[0:5\], without quotation marks"),
    "text of two": ("[0:5, 2:]", TypeError, r"write numpy\.s_\[0:5, 2:\]"),
    "words": ("time", TypeError, r"not 'time': a region is a tuple of slices, such as numpy\.s_\["),
    "text by name": ({"time": "0:5"}, TypeError, r"write numpy\.s_\[0:5\]"),
    "number": (3, TypeError, r"not 3: write slice\(3, 4\) for one position; the axis is kept"),
    "last position": ((-1,), TypeError, r"write slice\(-1, None\)"),
    "numpy's number": (np.int64(3), TypeError, r"write slice\(3, 4\)"),
    "truth": (True, TypeError, "not True: a region is a tuple of slices"),
    "new axis": ((None, slice(0, 5)), TypeError, "not None: a region is a tuple"),
    "list of positions": ([1, 5], TypeError, r"not 1: write slice\(1, 2\)"),
    "array of positions": (np.array([1, 5]), TypeError, r"not array\(\[1, 5\]\): a region is a tuple"),
    "two ellipses": ((..., slice(0, 1), ...), TypeError, "one '...' at most"),
    "labels": ({"time": slice("2020", "2021")}, TypeError, r"positions along the axis.*slice_indexer"),
    "fractions": (slice(0.0, 5.0), TypeError, "whole numbers"),
    "step": (slice(0, 5, 2), ValueError, "has no step"),
    "backwards": (slice(None, None, -1), ValueError, "has no step"),
    "too many": ((slice(None),) * 4, ValueError, "has 4 slices, but the array has 3 dimensions"),
    "unknown name": (
        {"tine": slice(0, 5)},
        ValueError,
        r"no dimension named 'tine'; it has \['time', 'lat', 'lon'\]; ",
    ),
    "unknown axis": ({7: slice(0, 5)}, ValueError, "axis 7 is out of range"),
    "no name at all": ({None: slice(0, 5)}, TypeError, "a whole number or a dimension name"),
    "twice": ({"time": slice(0, 5), 0: slice(0, 5)}, ValueError, "names axis 0 twice"),
}


@pytest.mark.parametrize("what", WRONG)
@every_reader
async def test_what_is_no_region_is_told(reader: Any, what: str, tmp_path: Path) -> None:
    """The message has what was given, and what to write instead."""
    given, error, words = WRONG[what]
    with pytest.raises(error, match=words):
        await reader(named(), given, tmp_path)


def test_every_function_that_takes_a_region_is_held_to_it() -> None:
    """A new one has to be added to the readers above."""
    found = set()
    for where, scope in (("zarrstream", zarrstream), ("zarrstream.aio", aio)):
        for name in scope.__all__:
            value = getattr(scope, name)
            methods = vars(value).items() if inspect.isclass(value) else ()
            for path, call in [(name, value), *((f"{name}.{method}", made) for method, made in methods)]:
                if inspect.isfunction(call) and "region" in inspect.signature(call).parameters:
                    found.add(f"{where}.{path}")
    assert {name for name in found if "Store" not in name} == set(READERS)


# -- the same of the items that are written ---------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["blocking", "aio"])
@pytest.mark.parametrize(
    "where",
    [{"time": slice(2, 6)}, {0: slice(2, 6)}, slice(2, 6), np.s_[2:6, ...], np.s_[2:-6], [slice(2, 6)], np.s_[2:6, :]],
)
async def test_an_item_names_its_region_in_the_same_words(face: str, where: Any) -> None:
    """By dimension names, too."""
    array = named()
    data = np.full((4, 6, 4), -7, "i4")
    if face == "aio":
        await aio.write_stream(array, [(where, data)])
    else:
        write_stream(array, [(where, data)])
    assert (array[2:6] == -7).all()
    assert (array[:2] != -7).all()
    assert (array[6:] != -7).all()


@pytest.mark.parametrize(
    "what", ["text by name", "labels", "step", "too many", "unknown name", "twice", "two ellipses"]
)
def test_an_item_with_a_wrong_region_is_told_in_the_same_words(what: str) -> None:
    """Whoever reads it, it is one parser."""
    given, error, words = WRONG[what]
    with pytest.raises(error, match=words):
        write_stream(named(), [(given, np.zeros((4, 6, 4), "i4"))])


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_names_that_xarray_keeps_in_format_2_are_names() -> None:
    """In regions and for axes."""
    array = named(2)
    assert len(list(stream_slices(array, "time", region={"lat": slice(0, 2)}))) == 12


@pytest.mark.parametrize("attribute", ["time", ["time", "lat"], 3, {"time": 1}, [1, 2, 3], None])
def test_an_attribute_that_names_no_dimensions_is_none(attribute: Any) -> None:
    """A text is not the names of its letters, and two names do not belong to three axes."""
    with pytest.raises(ValueError, match="no dimension named 'time'; it has no names"):
        stream_slices(named(2, attribute), "time")


def test_a_text_is_the_name_of_one_dimension() -> None:
    """As it is meant where an array has one."""
    array = zarr.create_array(
        {}, shape=(4,), chunks=(2,), dtype="i4", zarr_format=2, attributes={"_ARRAY_DIMENSIONS": "time"}
    )
    assert len(list(stream_slices(array, "time", region={"time": slice(1, 3)}))) == 2


def test_of_two_dimensions_of_one_name_neither_is_taken() -> None:
    """The number of the axis says which."""
    array = zarr.create_array({}, shape=(4, 4), chunks=(2, 2), dtype="i4", dimension_names=("x", "x"))
    with pytest.raises(ValueError, match="several dimensions of the array are named 'x'"):
        stream_slices(array, "x")
    assert len(stream_slices(array, 1)) == 4
