"""One zip archive that is rewritten: pending values, publication, and what is read of it."""

from __future__ import annotations

import gc
import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from tests.zip_files import content, sidecars
from zarrstream import MappingStore
from zarrstream.mappings.zip import ZipMapping
from zarrstream.mappings.zip import entries as zip_entries
from zarrstream.mappings.zip import pending as zip_spill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.fixture
def mapping(path: Path) -> Iterator[ZipMapping]:
    made = ZipMapping(path)
    yield made
    made.close()


def test_overwriting_deleting_and_appending_while_open(mapping: ZipMapping, path: Path) -> None:
    """Each shows at once, and each key is once in the file, whether it was published before or not."""
    mapping.update_many({"a": b"1", "b": b"2", "c/d": b"3"})
    mapping["a"] = b"one"
    mapping.flush()
    assert content(path) == {"a": b"one", "b": b"2", "c/d": b"3"}
    mapping["b"] = b"two"
    del mapping["c/d"]
    mapping["new"] = b"4"
    assert dict(mapping) == {"a": b"one", "b": b"two", "new": b"4"}
    assert content(path) == {"a": b"one", "b": b"2", "c/d": b"3"}  # until it is published
    mapping["c/d"] = b"back"
    mapping.close()
    assert dict(mapping) == content(path) == {"a": b"one", "b": b"two", "new": b"4", "c/d": b"back"}
    mapping.clear()
    assert not mapping
    mapping.close()
    assert content(path) == {}
    assert not sidecars(path)


def test_neither_opening_nor_reading_nor_deleting_nothing_makes_a_file(mapping: ZipMapping, path: Path) -> None:
    assert (list(mapping), mapping.get("k"), "k" in mapping) == ([], None, False)
    mapping.discard("k")
    mapping.clear()
    mapping.flush()
    mapping.close()
    assert not os.listdir(path.parent)  # noqa: PTH208  # names are all that is asked


def test_the_file_is_made_by_the_first_publication(mapping: ZipMapping, path: Path) -> None:
    mapping["k"] = b"1"
    assert not path.exists()
    assert mapping["k"] == b"1"
    mapping.flush()
    assert content(path) == {"k": b"1"}


def test_writes_say_that_they_are_not_durable(mapping: ZipMapping) -> None:
    assert not mapping.durable_on_write
    assert not MappingStore(mapping).durable_on_write


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hundred_small_writes_are_one_entry_and_ninety_nine_and_more_in_zarrs_store(tmp_path: Path) -> None:
    """zarr's ZipStore appends each version of a chunk; every reader that lists the file meets them all."""
    theirs, ours = ZipStore(tmp_path / "theirs.zip", mode="w"), MappingStore(ZipMapping(tmp_path / "ours.zip"))
    stores: list[Any] = [theirs, ours]
    for store in stores:
        array = zarr.create_array(store, shape=100, chunks=100, dtype="i4", fill_value=-1)
        for index in range(100):
            array[index] = index
        store.close()
    counts = []
    for name in ("theirs.zip", "ours.zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            counts.append(archive.namelist().count("c/0"))
    assert counts[0] >= 99
    assert counts[1] == 1
    for name in ("theirs.zip", "ours.zip"):  # the last of zarr's duplicates counts
        array = zarr.open_array(MappingStore(ZipMapping(tmp_path / name)), mode="r")
        np.testing.assert_array_equal(array[:], np.arange(100))


def test_zarrs_own_store_reads_ours(mapping: ZipMapping, path: Path) -> None:
    zarr.create_array(MappingStore(mapping), shape=(7, 5), chunks=(2, 3), dtype="f4")[:] = 3
    mapping.close()
    store = ZipStore(path, mode="r")
    assert (zarr.open_array(store, mode="r")[:] == 3).all()
    store.close()


def test_a_range_of_a_stored_entry_is_one_read_of_so_many_bytes(
    mapping: ZipMapping, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its place in the file: nothing else is loaded, after the entry's header, once."""
    mapping.update_many((f"k{number}", bytes([number]) * 100_000) for number in range(10))
    mapping.close()
    assert mapping.size("k7") == 100_000  # the directory is read
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def noted(descriptor: int, count: int, offset: int) -> bytes:
        reads.append((count, offset))
        return pread(descriptor, count, offset)

    monkeypatch.setattr(zip_entries.os, "pread", noted)
    assert mapping.read("k7", 50_000, 50_010) == b"\x07" * 10
    assert mapping.read("k7", -5) == b"\x07" * 5
    assert mapping["k7"] == b"\x07" * 100_000
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo("k7").header_offset
    monkeypatch.undo()
    assert reads == [(32, header), (10, header + 50_032), (5, header + 32 + 99_995), (100_000, header + 32)]


def test_pending_values_lie_on_the_disk(mapping: ZipMapping, path: Path) -> None:
    """In a file without a name, so that nothing is left of them when the process is killed."""
    mapping["k"] = bytes(1 << 20)
    spill = mapping._archive._view.spill  # type: ignore[union-attr]  # it is there
    assert os.fstat(spill.descriptor).st_size > 1 << 20  # type: ignore[union-attr]
    assert os.fstat(spill.descriptor).st_nlink == 0  # type: ignore[union-attr]
    assert sidecars(path) == [".x.zip.zarrstream-lock"]


def test_a_spill_does_not_grow_with_every_overwrite(mapping: ZipMapping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_spill, "_SLACK", 100_000)
    mapping["other"] = b"stays"
    mapping["gone"] = b"goes"
    del mapping["gone"]
    for number in range(100):
        mapping["k"] = bytes([number]) * 10_000
        spill = mapping._archive._view.spill  # type: ignore[union-attr]  # it is there
        assert os.fstat(spill.descriptor).st_size < 150_000  # type: ignore[union-attr]
        assert mapping["k"] == bytes([number]) * 10_000
    assert dict(mapping) == {"other": b"stays", "k": b"\x63" * 10_000}


def test_unchanged_entries_are_copied_as_they_are(path: Path) -> None:
    """A deflated entry stays deflated, byte for byte, and so do its times, comment and permissions."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("k", (2001, 2, 3, 4, 5, 6))
        info.compress_type, info.comment, info.external_attr = zipfile.ZIP_DEFLATED, b"a comment", 0o100600 << 16
        archive.writestr(info, b"long " * 1000)
        archive.writestr("gone", b"")
        archive.comment = b"the archive's"
    path.chmod(0o640)
    before = path.read_bytes()
    mapping = ZipMapping(path)
    mapping["l"] = b"new"
    del mapping["gone"]
    mapping.close()
    assert content(path) == {"k": b"long " * 1000, "l": b"new"}
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("k")
        assert (info.date_time, info.comment, archive.comment) == (
            (2001, 2, 3, 4, 5, 6),
            b"a comment",
            b"the archive's",
        )
        assert (info.external_attr, info.compress_type) == (0o100600 << 16, zipfile.ZIP_DEFLATED)
        stop = archive.getinfo("l").header_offset
    assert path.read_bytes()[:stop] == before[:stop]
    assert path.stat().st_mode & 0o777 == 0o640


def test_copying_without_the_kernels_help(mapping: ZipMapping, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no way to copy between files, or the file system refuses it."""
    mapping["k"] = bytes(range(256)) * 10_000
    mapping.flush()

    def refused(*_: Any) -> int:
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "copy_file_range", refused, raising=False)
    mapping["l"] = b"1"
    mapping.flush()
    monkeypatch.delattr(os, "copy_file_range")
    mapping["l"] = b"2"
    mapping.flush()
    assert content(path) == {"k": bytes(range(256)) * 10_000, "l": b"2"}


def test_mappings_of_one_path_share_what_is_pending(mapping: ZipMapping, path: Path) -> None:
    """Whichever way the path is written; closing one publishes for all."""
    (path.parent / "link.zip").symlink_to(path)
    other = ZipMapping(path.parent / "link.zip")
    mapping["k"] = b"1"
    assert other["k"] == b"1"
    assert other == mapping
    assert other.place == f"zip:///{path}"
    other.close()
    assert content(path) == {"k": b"1"}


def test_a_dropped_mapping_is_published(path: Path) -> None:
    """By the last one that goes; and its descriptors are closed."""
    mapping, other = ZipMapping(path), ZipMapping(path)
    mapping["k"] = b"1"
    del mapping
    gc.collect()
    assert not path.exists()
    del other
    gc.collect()
    assert content(path) == {"k": b"1"}
    assert not sidecars(path)


def test_what_is_pending_can_be_given_up(mapping: ZipMapping, path: Path) -> None:
    mapping["k"] = b"1"
    mapping.flush()
    mapping["k"] = b"2"
    mapping["l"] = b"2"
    mapping.revert()
    assert dict(mapping) == {"k": b"1"}
    assert not sidecars(path)
    mapping.close()
    assert content(path) == {"k": b"1"}


def test_a_batch_is_all_or_nothing(mapping: ZipMapping) -> None:
    """What computes it may fail in its midst."""

    def items() -> Iterator[tuple[str, bytes]]:
        yield "a", b"1"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        mapping.update_many(items())
    with pytest.raises(TypeError):
        mapping.update_many([("a", b"1"), ("b", "text")])  # type: ignore[list-item]  # that is the mistake
    assert not mapping
    mapping.update_many([("a", b"1"), ("a", b"2")])
    assert dict(mapping) == {"a": b"2"}


def test_listings_read_no_value(mapping: ZipMapping, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping.update_many((f"a/c/{row}/{column}", b"1") for row in range(20) for column in range(20))
    mapping.close()
    mapping["b"] = b"22"
    monkeypatch.setattr(zip_entries.EntryFile, "value", None)
    assert len(mapping) == 401
    assert mapping
    assert "a/c/3/4" in mapping
    assert mapping.size("b") == 2
    assert list(mapping.children("a/c")) == sorted(str(row) for row in range(20))
    assert sorted(mapping.keys_under("a/c/1/")) == sorted(f"a/c/1/{column}" for column in range(20))
    mapping.clear_under("a/c/1")
    assert len(mapping) == 381


def test_a_key_that_looks_like_a_folder_is_a_key(mapping: ZipMapping) -> None:
    """Its entry says that it is a file; the folders of zip tools say that they are none, or nothing."""
    mapping["a/"] = b""
    mapping["b/"] = b"2"
    mapping.close()
    assert dict(mapping) == {"a/": b"", "b/": b"2"}
