"""What a source may yield: taken as it is meant, or refused in words that lead to what is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from tests.optional import require
from zarrstream import Checkpoint, aio, stream_slices, write_stream
from zarrstream.errors import UnalignedChunkError


def new(dtype: Any = "i4", size: int = 8, **options: Any) -> zarr.Array:
    """Make an array of chunks of two."""
    return zarr.create_array(MemoryStore(), shape=(size,), chunks=(2,), dtype=dtype, **options)


ONES = np.ones(2, "i4")


@pytest.mark.parametrize(
    "item",
    [
        ((1,), ONES),
        [(1,), ONES],
        (1, ONES),
        (np.int64(1), ONES),
        ([1], ONES),
        (np.array([1]), ONES),
        ((np.int8(1),), ONES),
        (slice(2, 4), ONES),
        ((slice(2, 4),), ONES),
        ((slice(-6, -4),), ONES),
        ((slice(np.int64(2), np.int64(4)),), [1, 1]),
    ],
)
def test_an_item_is_taken_as_it_is_meant(item: Any) -> None:
    """Lists, numpy's numbers, and the one index or slice of one dimension."""
    array = new()
    data = item[1] if isinstance(item[1], np.ndarray) else np.asarray(item[1], "i4")
    assert write_stream(array, [(item[0], data)]).written == 1
    assert array[...].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (ONES, "not numpy.ndarray"),
        ("ab", r"an index is a tuple of ints .* not str"),
        ((1, ONES, 3), "not tuple"),
        (("1", ONES), "the first of a pair is '1', of str"),
        (((True,), ONES), r"the first of a pair is \(True,\)"),
        (((1.5,), ONES), "neither an index"),
        (((9,), ONES), r"chunk \(9,\) is not in the target's chunk grid"),
        (((slice(2, 12),), ONES), "is not a part of the target's shape"),
    ],
)
def test_an_item_that_is_none_is_told(item: Any, words: str) -> None:
    """The message says what was given."""
    with pytest.raises((TypeError, ValueError), match=words):
        write_stream(new(), [item])


def test_slices_of_a_stream_are_items() -> None:
    """Where they lie on chunk borders; to be copied is what slices are for."""
    array, copy = new(), new(size=8)
    array[...] = np.arange(8)
    assert write_stream(copy, stream_slices(array, thickness=4)).written == 4
    assert copy[...].tolist() == list(range(8))
    with pytest.raises(UnalignedChunkError):
        write_stream(copy, stream_slices(array, thickness=3))


# -- data that are more than an array ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1", "M8[s]", "S3"])
def test_masked_values_are_stored_as_the_fill_value(dtype: str, zarr_format: Any) -> None:
    """The numbers under a mask are none: netCDF4 gives every variable so."""
    values = np.arange(1, 3).astype(dtype)
    fill = np.array(7).astype(dtype)[()]
    array = new(dtype, 2, zarr_format=zarr_format, fill_value=fill)
    masked = np.ma.MaskedArray(values, mask=[False, True])
    assert write_stream(array, [((0,), masked)]).written == 1
    assert array[...].tolist() == [values[0].item(), np.array(fill).item()]
    assert write_stream(array, [((0,), np.ma.MaskedArray(values))]).written == 1
    assert array[...].tolist() == values.tolist()


def test_masked_values_without_a_fill_value_are_refused() -> None:
    """Format 2 may have none: then somebody has to say what stands for them."""
    array = new("f4", 2, zarr_format=2, fill_value=None)
    with pytest.raises(TypeError, match=r"data\.filled\(value\)"):
        write_stream(array, [((0,), np.ma.masked_greater(np.array([1, 9], "f4"), 5))])


class Quantity:
    """What pint gives, as far as it matters."""

    magnitude = ONES
    units = "kelvin"

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return self.magnitude


def test_units_are_not_dropped_silently() -> None:
    """A quantity's numbers are given by themselves."""
    with pytest.raises(TypeError, match=r"have units \(kelvin\).*\.magnitude"):
        write_stream(new(), [((0,), Quantity())])


@pytest.mark.parametrize("attribute", ["scale_factor", "add_offset", "_FillValue", "missing_value"])
def test_packed_arrays_are_not_cast_into(attribute: str) -> None:
    """Decoded values in a packed array would be nonsense: the message names the packing, and never a cast."""
    array = new("i2")
    array.attrs[attribute] = 1
    with pytest.raises(TypeError, match=attribute) as caught:
        write_stream(array, [((0,), np.array([280.0, 281.0]))])
    assert "CF conventions" in str(caught.value)
    assert "astype" not in str(caught.value)


def test_an_array_of_xarray_is_data() -> None:
    """Its values are written, masked or not."""
    xarray = require("xarray")
    array = new("f4", fill_value=-1)
    assert write_stream(array, [((0,), xarray.DataArray(np.ones(2, "f4")))]).written == 1
    assert array[:2].tolist() == [1, 1]


PACKED = np.dtype([("a", "u4"), ("b", "u1")])


@pytest.mark.parametrize("given", [np.dtype([("a", "u4"), ("b", "u1")], align=True), PACKED.newbyteorder(">")])
def test_records_are_taken_as_zarr_takes_them(given: np.dtype) -> None:
    """Padding and the order of bytes are no difference."""
    array = zarr.create_array(MemoryStore(), shape=(2,), chunks=(2,), dtype=PACKED, zarr_format=2)
    records = np.array([(1, 2), (3, 4)], dtype=given)
    assert write_stream(array, [((0,), records)]).written == 1
    assert array[...].tolist() == [(1, 2), (3, 4)]
    with pytest.raises(TypeError, match="the array's own dtype"):
        write_stream(array, [((0,), np.zeros(2, [("a", "u4"), ("c", "u1")]))])


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_bytes_are_taken_for_strings(zarr_format: Any) -> None:
    """As zarr takes them."""
    array = new(str, 2, zarr_format=zarr_format)
    assert write_stream(array, [((0,), np.array([b"a", b"bc"]))]).written == 1
    assert array[...].tolist() == ["a", "bc"]


# -- the call ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_its_path_is_told() -> None:
    """The class is callable, and is no callable that hears of progress."""
    with pytest.raises(TypeError, match=r"Checkpoint\(path\)"):
        write_stream(new(), [], checkpoint=Checkpoint)  # type: ignore[arg-type]


def test_a_source_that_was_not_called_is_told() -> None:
    """A generator function yields nothing before it is called."""

    def source() -> Any:
        yield (0,), ONES

    with pytest.raises(TypeError, match=r"call it: source\(\)"):
        write_stream(new(), source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an iterable of chunks, not int"):
        write_stream(new(), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("face", ["blocking", "aio"])
async def test_the_source_is_closed_when_the_stream_fails(face: str) -> None:
    """Its ``finally`` runs before the error is heard."""
    closed = []

    def source() -> Any:
        try:
            yield (0,), ONES
            yield "no item"
        finally:
            closed.append(True)

    with pytest.raises(TypeError, match="not str"):
        await _write(face, new(), source())
    assert closed


async def _write(face: str, array: zarr.Array, source: Any) -> None:
    if face == "aio":
        await aio.write_stream(array, source)
    else:
        write_stream(array, source)


def test_a_length_that_cannot_be_told_is_none() -> None:
    """Progress has no total then; the write goes on."""

    class Lazy(list[Any]):
        def __len__(self) -> int:
            raise RuntimeError("not yet")

    assert write_stream(new(), Lazy([((0,), ONES)])).written == 1
