"""Keys in LMDB: zarr 2's, awkward ones, those over its limit, and their listings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lmdb_tables import KINDS, made
from tests.optional import require
from zarrstream import StoreCorruptError, StoreOptionError

lmdb = require("lmdb")

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402
from zarrstream.mappings.lmdb import layout as lmdb_keys  # noqa: E402  # where there is a driver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lmdb"


@pytest.fixture(params=KINDS)
def mapping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LMDBMapping]:
    yield from made(request.param, tmp_path)


def raw(path: Path) -> dict[bytes, bytes]:
    """Return what bare py-lmdb finds in the main database, as zarr 2's LMDBStore does."""
    with lmdb.open(str(path), readonly=True) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def test_a_database_of_zarr_2_is_read_and_written(path: Path) -> None:
    """Its LMDBStore keeps keys as they are in the main database, under a map of 1 TiB that is written directly to."""
    with (
        lmdb.open(str(path), map_size=1 << 40, meminit=False, writemap=True, sync=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"a/.zarray", b"{}")
        transaction.put(b"a/0.0", bytes(10_000))
    mapping = LMDBMapping(path)
    assert (mapping["a/.zarray"], mapping.size("a/0.0")) == (b"{}", 10_000)
    assert sorted(mapping.children("a")) == [".zarray", "0.0"]
    mapping["a/0.1"] = b"ours"
    mapping.close()
    assert raw(path)[b"a/0.1"] == b"ours"


@pytest.mark.parametrize("length", [lmdb_keys.STEM, lmdb_keys.STEM + 1, 510, 511, 512, 513, 1000, 70_000])
def test_keys_over_lmdbs_limit_work(mapping: LMDBMapping, length: int) -> None:
    """Neighbours that differ only behind the limit stay apart, under every verb."""
    head = "é/" + "x" * (length - 4)
    first, second = head + "1", head + "2"
    mapping.update_many({first: b"one", second: b"two!", "é": b"near"})
    assert (mapping[first], mapping[second], mapping.size(second)) == (b"one", b"two!", 4)
    assert (mapping.read(second, 1, -1), mapping.read_many([first, "é"])) == (b"wo", {first: b"one", "é": b"near"})
    assert sorted(mapping) == sorted([first, second, "é"])
    assert sorted(mapping.keys_under(head)) == [first, second]
    assert list(mapping.keys_under(second)) == [second]
    assert list(mapping.keys_under(head + "3")) == list(mapping.keys_under(head + "11")) == []
    assert sorted(mapping.children("é")) == [first[2:], second[2:]]
    assert (mapping.setdefault(first, b"no"), mapping.pop(first)) == (b"one", b"one")
    assert first not in mapping
    assert second in mapping
    mapping[second] = b""
    assert (mapping[second], mapping.size(second), mapping.read(second, 0, 5)) == (b"", 0, b"")
    del mapping[second]
    assert list(mapping) == ["é"]


def test_levels_behind_the_limit_are_listed_and_cleared(mapping: LMDBMapping) -> None:
    deep = "/".join(["d" * 100] * 6)
    keys = [f"{deep}/a/1", f"{deep}/a/2", f"{deep}/b", f"{deep}b/c", deep, deep[:-1]]
    mapping.update_many((key, b"") for key in keys)
    assert sorted(mapping.children(deep)) == ["a", "b"]
    assert sorted(mapping.children(f"{deep}/a")) == ["1", "2"]
    assert list(mapping.children("")) == ["d" * 100]
    mapping.clear_under(f"{deep}/a")
    assert sorted(mapping) == sorted(keys[2:])
    mapping.clear_under(deep)
    assert sorted(mapping) == sorted(keys[3:])
    mapping.clear()
    assert list(mapping) == []


@pytest.mark.parametrize("key", ["\ud800", "nul\0"])
def test_a_key_that_no_store_holds_is_refused(mapping: LMDBMapping, key: str) -> None:
    for ask in (mapping.__getitem__, mapping.discard, mapping.size, mapping.children, mapping.__contains__):
        with pytest.raises(StoreOptionError, match="rename the node"):
            ask(key)
    with pytest.raises(StoreOptionError, match="rename the node"):
        mapping[key] = b""
    with pytest.raises(TypeError, match="a key is a string"):
        mapping[5] = b""  # type: ignore[index]  # that is the mistake


def test_a_key_of_another_program_that_is_no_text_is_told(path: Path) -> None:
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a\xfe", b"1")
    mapping = LMDBMapping(path)
    with pytest.raises(StoreCorruptError, match="no text"):
        list(mapping)


def test_a_listing_goes_on_over_many_pages(mapping: LMDBMapping) -> None:
    """No transaction stays open between them: what is removed under the listing's feet is removed."""
    keys = sorted(f"c/{number}" for number in range(3000))
    mapping.update_many((key, b"") for key in keys)
    assert list(mapping) == keys
    listed = [key for key in mapping if mapping.pop(key) == b""]
    assert (listed, len(mapping)) == (keys, 0)
    listing = iter(mapping)
    assert next(listing, None) is None


def test_children_are_found_without_visiting_what_is_beneath(
    mapping: LMDBMapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping.update_many((f"{name}/c/{number}", b"") for name in "abc" for number in range(3000))
    visited: list[bytes] = []
    whole_key = lmdb_keys.whole_key

    def counted(name: bytes, content: memoryview) -> bytes:
        visited.append(name)
        return whole_key(name, content)

    monkeypatch.setattr(lmdb_keys, "whole_key", counted)
    assert list(mapping.children("")) == ["a", "b", "c"]
    assert len(visited) == 3
