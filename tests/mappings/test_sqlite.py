"""SQLite: what a file keeps, from version 2 of zarr on, and what each failure says."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.backends import V2_TABLE
from tests.processes import in_child
from tests.sqlite_files import limited, rows
from zarrstream import MappingStore
from zarrstream.errors import (
    StoreFullError,
    StoreOptionError,
)
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.sqlite import mapping as sqlite
from zarrstream.mappings.sqlite import statements as sqlite_sql

if TYPE_CHECKING:
    import sqlite3


V2_FILE = Path(__file__).parent / "data" / "v2.db"  # written by zarr 2.18.3's SQLiteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_of_zarr_2_opens_as_it_is(path: Path) -> None:
    """Groups, attributes, chunks and fill values that zarr 2 wrote are read, and written on."""
    shutil.copy(V2_FILE, path)
    group = zarr.open_group(MappingStore(SQLiteMapping(path)), mode="r+")
    assert group.attrs["title"] == "written by zarr 2"
    winds = group["deep/winds"]
    assert isinstance(winds, zarr.Array)
    expected = np.full((7, 5), -1, dtype="f4")
    expected[:6] = np.arange(30).reshape(6, 5)
    np.testing.assert_array_equal(winds[:], expected)
    winds[6] = 9
    assert rows(path, "SELECT count(*) FROM zarr WHERE k LIKE 'deep/winds/2.%'") == [(3,)]
    assert SQLiteMapping(path)["empty"] == b""


def test_zarr_2_can_read_and_write_what_we_made(path: Path) -> None:
    """The table is zarr 2's to the letter, and its own statements work on it."""
    mapping = SQLiteMapping(path)
    mapping["a/b"] = b"ours"
    assert rows(path, "SELECT sql FROM sqlite_master")[:1] == [(V2_TABLE.replace("IF NOT EXISTS ", ""),)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    rows(path, "REPLACE INTO zarr VALUES ('a/c', x'0102')")
    rows(path, "REPLACE INTO zarr VALUES ('null', NULL)")
    assert (mapping["a/b"], mapping["a/c"], mapping["null"]) == (b"ours", b"\1\2", b"")
    assert (mapping.size("null"), mapping.read("null", -1)) == (0, b"")


def test_reading_makes_no_file(path: Path) -> None:
    """Whatever does not write finds an empty mapping, and leaves the folder empty."""
    mapping = SQLiteMapping(path)
    assert (list(mapping), len(mapping), bool(mapping), "k" in mapping) == ([], 0, False, False)
    assert list(mapping.children("a")) == list(mapping.keys_under("a")) == []
    mapping.discard("k")
    mapping.clear()
    mapping.update_many([])
    assert mapping.pop("k", None) is None
    with pytest.raises(KeyError):
        del mapping["k"]
    assert not os.listdir(path.parent)  # noqa: PTH208  # names are all that is asked


def test_a_database_without_the_table_reads_as_empty_and_gains_it_by_a_write(path: Path) -> None:
    rows(path, "CREATE TABLE other(x)")
    mapping = SQLiteMapping(path)
    assert list(mapping) == []
    mapping["k"] = b"1"
    assert rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("other",), ("zarr",)]


def test_the_place_is_the_resolved_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, an absolute one and a link are one place; another file, also an equal one, is another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
    mapping = SQLiteMapping("x.db")
    assert mapping.place == f"sqlite:///{tmp_path.resolve()}/x.db"
    assert {mapping, SQLiteMapping(tmp_path / "x.db"), SQLiteMapping("link.db")} == {mapping}
    assert mapping != SQLiteMapping("y.db")
    assert mapping != {}


@pytest.mark.parametrize(("durability", "synchronous"), [("off", 0), ("normal", 1), ("full", 2)])
def test_durability_is_sqlites_synchronous(path: Path, durability: Any, synchronous: int) -> None:
    mapping = SQLiteMapping(path, durability=durability)
    mapping["k"] = b"1"
    assert mapping._rows("PRAGMA synchronous", ()) == [(synchronous,)]
    assert mapping["k"] == b"1"


@pytest.mark.parametrize("wrong", [{"durability": "none"}, {"busy_timeout": -1}, {"busy_timeout": "5"}])
def test_a_bad_option_is_named(path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(wrong))):
        SQLiteMapping(path, **wrong)


@pytest.mark.parametrize("name", ["", ":memory:", "a\0b"])
def test_a_path_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(StoreOptionError, match="names none"):
        SQLiteMapping(name)


@pytest.mark.parametrize("name", ["a b?c#d%20.db", "naïve.db", "'quoted\".db", "100%.db", "back\\slash.db"])
def test_signs_of_urls_belong_to_the_path(tmp_path: Path, name: str) -> None:
    mapping = SQLiteMapping(tmp_path / name)
    mapping["k"] = b"1"
    mapping.close()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["\ud800", "a/\udfff", "nul\0"])
def test_a_key_that_no_database_holds_is_refused(path: Path, key: str) -> None:
    mapping = SQLiteMapping(path)
    for ask in (mapping.__getitem__, mapping.discard, mapping.size, mapping.children, mapping.__contains__):
        with pytest.raises(StoreOptionError, match="rename the node"):
            ask(key)
    with pytest.raises(StoreOptionError, match="rename the node"):
        mapping[key] = b""
    with pytest.raises(TypeError, match="a key is a string"):
        mapping[5] = b""  # type: ignore[index]  # that is the mistake


def test_the_successor_of_a_prefix_is_the_next_text_without_it() -> None:
    """The carry passes over the surrogates, which have no UTF-8 form, and over the end of Unicode."""
    successor = sqlite_sql.successor
    assert [successor(text) for text in ("a", "a/", "a\U0010ffff", "\ud7ff")] == ["b", "a0", "b", "\ue000"]
    assert successor("") == successor("\U0010ffff") == b""


def test_children_are_found_without_visiting_what_is_beneath(path: Path) -> None:
    """Twenty thousand keys under three names cost no more statements' steps than a few."""
    mapping = SQLiteMapping(path, durability="off")
    mapping.update_many((f"{name}/c/{number}", b"") for name in "abc" for number in range(7000))
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def counted(connection: sqlite3.Connection) -> list[Any]:
        connection.set_progress_handler(count, 1)
        try:
            return connection.execute(sqlite_sql.CHILDREN, {"low": "", "high": b"", "skip": 1}).fetchall()
        finally:
            connection.set_progress_handler(None, 1)

    assert len(mapping._file.call(counted) or []) == 3
    assert list(mapping.children("")) == ["a", "b", "c"]
    assert steps < 500


def test_a_listing_goes_on_over_many_pages(path: Path) -> None:
    mapping = SQLiteMapping(path, durability="off")
    keys = sorted(f"c/{number}" for number in range(3 * sqlite_sql.KEYS_AT_ONCE))
    mapping.update_many((key, b"") for key in keys)
    assert list(mapping) == keys
    listed = [key for key in mapping if mapping.pop(key) == b""]  # removed under the listing's feet
    assert (listed, len(mapping)) == (keys, 0)


# -- atomicity --------------------------------------------------------------------------------------------------------


def test_a_batch_is_all_or_nothing(path: Path) -> None:
    mapping = SQLiteMapping(path)
    mapping["k"] = b"before"
    with pytest.raises(TypeError):
        mapping.update_many([("k", b"after"), ("l", "text")])  # type: ignore[list-item]  # that is the mistake
    full = limited(mapping)
    with pytest.raises(StoreFullError, match="no room"):
        mapping.update_many([("k", b"after"), ("l", bytes(1 << 20))])
    assert dict(mapping) == {"k": b"before"}
    full()
    mapping.update_many([("k", b"after"), ("l", b"")])
    assert dict(mapping) == {"k": b"after", "l": b""}


def test_the_items_of_a_batch_may_write_to_the_same_mapping(path: Path) -> None:
    """They are computed before the transaction begins, however they are."""
    mapping = SQLiteMapping(path, busy_timeout=0.2)
    mapping.update_many((f"k{number}", mapping.setdefault("other", b"1")) for number in range(3))
    assert sorted(mapping) == ["k0", "k1", "k2", "other"]


def test_an_overwritten_value_keeps_its_row(path: Path) -> None:
    """REPLACE would give the row another id, under the feet of a range reader."""
    mapping = SQLiteMapping(path)
    mapping["a"] = b"1"
    mapping["b"] = b"2"
    mapping["a"] = b"3"
    mapping.update_many([("a", b"4")])
    assert rows(path, "SELECT rowid, k FROM zarr ORDER BY rowid") == [(1, "a"), (2, "b")]


def test_a_range_is_of_one_version(path: Path) -> None:
    """While a value is overwritten and its row id goes from hand to hand, a range holds one version of one key."""
    mapping = SQLiteMapping(path, durability="off")
    size = 50_000
    mapping["k"] = bytes([1]) * size
    stop = threading.Event()

    def overwrite() -> None:
        version = 1
        while not stop.is_set():
            version = version % 200 + 1
            del mapping["k"]
            mapping["other"] = bytes([255]) * size  # takes over the row id
            mapping["k"] = bytes([version]) * size
            del mapping["other"]

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        for _ in range(300):
            try:
                part = mapping.read("k", 10, size - 10)
            except KeyError:
                continue
            assert part == part[:1] * (size - 20)
            assert part[0] != 255
    finally:
        stop.set()
        writer.join()


def test_a_range_is_read_from_the_row_that_was_found(path: Path) -> None:
    """Even where, between the two, the row id became another key's."""
    mapping, other = SQLiteMapping(path), SQLiteMapping(path)
    mapping["k"] = b"0123456789"

    class Interrupted:
        """A connection that meets a writer between looking the row up and opening its BLOB."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self.execute = connection.execute
            self.in_transaction = True
            self.open = connection.blobopen

        def blobopen(self, *arguments: Any, **options: Any) -> sqlite3.Blob:
            del other["k"]
            other["thief"] = b"abcdefghij"
            return self.open(*arguments, **options)

    found = mapping._file.call(lambda connection: sqlite._read_ranges(Interrupted(connection), "k", [slice(2, 5)]))  # type: ignore[arg-type]  # stands for one
    assert found == [b"234"]
    assert rows(path, "SELECT rowid, k FROM zarr") == [(1, "thief")]


def test_a_range_does_not_load_the_value(path: Path) -> None:
    """The last 100 bytes of 64 MB take a few MB of the process's memory at most."""
    mapping = SQLiteMapping(path, durability="off")
    mapping["k"] = bytes(64 << 20)
    mapping.close()

    def work() -> None:
        mapping.read("k", 0, 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert mapping.read("k", -100) == bytes(100)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB

    in_child(work)
