"""Which pickles of a foreign mapping are copies: they warn, and those that lead to a shared place do not."""

from __future__ import annotations

import pickle
import warnings
import zlib
from collections import ChainMap, Counter, OrderedDict, UserDict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from tests.optional import require
from zarrstream import MappingStore
from zarrstream.mappings.foreign import ForeignMapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLACE: dict[str, bytes] = {}  # stands for what all processes see


class Shared(MutableMapping[str, bytes]):
    """Reduces to the place that all of its kind share."""

    def __getitem__(self, key: str) -> bytes:
        return PLACE[key]

    def __setitem__(self, key: str, value: bytes) -> None:
        PLACE[key] = value

    def __delitem__(self, key: str) -> None:
        del PLACE[key]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACE)

    def __len__(self) -> int:
        return len(PLACE)

    def __reduce__(self) -> Any:
        return Shared, ()


class Copied(Shared):
    """Has a way of its own to be reduced, and takes its content along."""

    def __reduce__(self) -> Any:
        return Copied, (), dict(PLACE)


class Plain(Shared):
    __reduce__ = object.__reduce__


class Subclass(OrderedDict[str, bytes]):
    pass


def _zict_file(folder: Path) -> Any:
    return require("zict").File(folder / "files")


def _zict_func(_: Path) -> Any:
    return require("zict").Func(zlib.compress, zlib.decompress, {})


COPIES: tuple[Callable[[Path], Any], ...] = (
    lambda _: {},
    lambda _: Subclass(),
    lambda _: Counter(),
    lambda _: UserDict(),
    lambda _: ChainMap(),
    lambda _: Copied(),
    _zict_file,
    _zict_func,
)


@pytest.mark.parametrize("make", COPIES, ids=["dict", "subclass", "counter", "user", "chain", "own", "file", "func"])
def test_a_copy_warns(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """Of a store and of an array as well: a write to it would be lost without a word."""
    PLACE.clear()
    mapping = make(tmp_path)
    mapping["group/zarr.json"] = b"{}"
    with pytest.warns(UserWarning, match=f"a pickled {type(mapping).__name__} is a copy.*sqlite:///PATH"):
        pickle.dumps(MappingStore(mapping))
    if isinstance(mapping, Shared):
        return  # nothing can tell while nothing is in it
    del mapping["group/zarr.json"]
    with pytest.warns(UserWarning, match="is a copy"):
        pickle.dumps(MappingStore(mapping))


@pytest.mark.parametrize("make", [lambda _: Shared(), lambda folder: fsspec.get_mapper(str(folder))])
def test_what_reduces_to_a_shared_place_is_silent(make: Callable[[Path], Any], tmp_path: Path) -> None:
    PLACE.clear()
    mapping = make(tmp_path)
    mapping["key"] = b"1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = pickle.loads(pickle.dumps(ForeignMapping(mapping)))
    copy["key"] = b"2"
    assert mapping["key"] == b"2"
