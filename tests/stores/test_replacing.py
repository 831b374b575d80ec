"""``mode="w"`` and ``overwrite=True`` on every store: replaced is what was there, and nothing else, as zarr has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from packaging.version import Version

from tests.backends import Row, every_row, opened
from zarrstream import MappingStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zarr.abc.store import Store


@pytest.fixture
def store(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    for mapping in opened(row, tmp_path, request):
        yield MappingStore(mapping)


def filled(store: Store, name: str) -> None:
    """Write an array of sevens."""
    zarr.create_array(store, name=name, shape=8, chunks=2, dtype="i4", overwrite=True)[:] = 7


@every_row
def test_a_replaced_array_has_none_of_the_old_chunks(store: Store) -> None:
    """What the new array has not been given reads as its fill value; its neighbours stay."""
    for name in ("a", "a1", "ab/c"):
        filled(store, name)
    new = zarr.open_array(store, path="a", mode="w", shape=8, chunks=4, dtype="i4", fill_value=-1)
    new[:4] = 1
    assert zarr.open_array(store, path="a", mode="r")[:].tolist() == [1] * 4 + [-1] * 4
    for name in ("a1", "ab/c"):
        assert np.all(zarr.open_array(store, path=name, mode="r")[:] == 7)


if Version(zarr.__version__) >= Version("3.4"):  # older zarr removes before it looks

    @every_row
    @pytest.mark.parametrize("wrong", [{"dtype": "no such type"}, {"chunks": (2, 2)}, {"compressors": "no such codec"}])
    def test_what_cannot_be_made_replaces_nothing(store: Store, wrong: dict[str, Any]) -> None:
        """An argument that is refused leaves the array that is there."""
        filled(store, "a")
        with pytest.raises((TypeError, ValueError, KeyError)):
            zarr.open_array(store, path="a", mode="w", **{"shape": 8, "chunks": 4, "dtype": "i4", **wrong})
        assert np.all(zarr.open_array(store, path="a", mode="r")[:] == 7)


@every_row
def test_a_replaced_group_has_none_of_the_old_members(store: Store) -> None:
    """``mode="w"`` on a group removes what is beneath it, and nothing beside it."""
    filled(store, "g/a")
    filled(store, "g1/a")
    zarr.open_group(store, path="g", mode="w", attributes={"new": True})
    assert list(zarr.open_group(store, path="g", mode="r").array_keys()) == []
    assert list(zarr.open_group(store, path="g1", mode="r").array_keys()) == ["a"]
