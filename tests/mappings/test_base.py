"""The defaults of the mapping contract, on the least mapping that keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.backends import ROWS, Row, contract
from zarrstream.mappings.base import ByteMapping, contiguous, pairs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL = [row for row in ROWS if row.service is None]


class Least(ByteMapping):
    """The five methods, on a dict."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    @property
    def place(self) -> None:
        return None

    def __getitem__(self, key: str) -> bytes:
        return self.kept[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.kept[key] = bytes(contiguous(value))

    def __delitem__(self, key: str) -> None:
        del self.kept[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)


class Vanishing(Least):
    """Loses each key that is asked for, after it was found to be there."""

    def __contains__(self, key: object) -> bool:
        found = key in self.kept
        self.kept.pop(str(key), None)
        return found

    def size(self, key: str) -> int:
        self.kept.pop("b", None)
        return super().size(key)


def test_a_key_that_vanishes_beside_a_batch_is_left_out_of_it() -> None:
    mapping = Vanishing()
    mapping.update({"a": b"1"})
    assert mapping.read_many(["a", "absent"]) == {"a": b"1"}
    mapping.update({"a": b"1", "b": b"22"})
    assert mapping.size_many(["b", "a"]) == {"a": 1}


def test_sizes_come_with_a_listing() -> None:
    """In pages, so that a long listing is begun at once."""
    mapping = Least()
    mapping.update({f"a/{number}": bytes(number) for number in range(2000)})
    mapping["b"] = b""
    assert dict(mapping.sizes_under("a/")) == {f"a/{number}": number for number in range(2000)}


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.name)
def test_sizes_are_those_of_the_values(row: Row, tmp_path: Path) -> None:
    mapping = contract(row.make(tmp_path))
    mapping.update({"a": b"", "a/b": b"22", "ab": b"333", "a/é": b"4444"})
    assert mapping.size_many(["ab", "absent", "a"]) == {"ab": 3, "a": 0}
    assert dict(mapping.sizes_under("a/")) == {"a/b": 2, "a/é": 4}
    assert dict(mapping.sizes_under("")) == {"a": 0, "a/b": 2, "ab": 3, "a/é": 4}
    _end(mapping)


OBJECTS = (
    np.array([1, "text"], object),
    np.array([(1, None)], [("One", "i4"), ("b", object)]),
)


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.name)
@pytest.mark.parametrize("value", OBJECTS, ids=["objects", "records"])
def test_no_store_takes_the_addresses_of_objects_for_their_values(row: Row, value: Any, tmp_path: Path) -> None:
    mapping = contract(row.make(tmp_path))
    verbs: tuple[Any, ...] = (
        lambda: mapping.__setitem__("k", value),
        lambda: mapping.setdefault("k", value),
        lambda: mapping.update_many({"k": value}),
    )
    for verb in verbs:
        with pytest.raises(TypeError, match="addresses"):
            verb()
    assert "k" not in mapping
    _end(mapping)


BUFFERS: tuple[Any, ...] = (
    np.float64(3),
    np.array(5.0),
    np.zeros((2, 3), ">i4"),
    np.zeros((0, 3)),
    np.array([(1, 2.0)], [("O", "<i4"), ("b", "f8")]),
    bytearray(b"abc"),
    memoryview(b"abcd"),
)


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.name)
def test_every_store_takes_every_contiguous_buffer(row: Row, tmp_path: Path) -> None:
    """Of no dimension, of none of its elements, of foreign byte order, of records with a field named O."""
    mapping = contract(row.make(tmp_path))
    for number, value in enumerate(BUFFERS):
        expected = memoryview(value).tobytes()
        mapping[f"set/{number}"] = value
        mapping.update_many({f"batch/{number}": value})
        assert mapping.setdefault(f"new/{number}", value) == expected
        assert {bytes(mapping[f"{verb}/{number}"]) for verb in ("set", "batch", "new")} == {expected}
    _end(mapping)


def test_update_takes_whatever_dict_update_takes() -> None:
    """A mapping, an object with ``keys()`` and ``[]``, pairs, and names."""

    class Keyed:
        def keys(self) -> list[str]:
            return ["a", "b"]

        def __getitem__(self, key: str) -> bytes:
            return key.encode()

    mapping = Least()
    given: Any = Keyed()
    mapping.update(given, c=b"c")
    mapping.update_many(given)
    assert dict(mapping) == {"a": b"a", "b": b"b", "c": b"c"}
    assert list(pairs([("a", b"1")])) == [("a", b"1")]


def _end(mapping: ByteMapping) -> None:
    for name in ("destroy", "close"):
        getattr(mapping, name, lambda: None)()
