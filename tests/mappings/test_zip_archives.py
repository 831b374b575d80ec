"""Archives that others made: zip tools, zarr's ZipStore, damaged ones; and those too large for the old format."""

from __future__ import annotations

import os
import random
import shutil
import stat
import struct
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.zip_files import content, make
from zarrstream.errors import StoreAccessError, StoreCorruptError, StoreError, StoreOptionError
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = (
    Path(__file__).parent / "data"
)  # what Info-ZIP's zip 3.0 made of VALUES, and of a secret with the password "word"
LARGE = (4 << 30) + 10
VALUES = {"zarr.json": b"{}", "c/0/0": bytes(range(256)) * 40, "c/0/1": b"", "é/日本/🎉": b"unicode"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_the_standard_library(path: Path, method: int) -> None:
    """Read as they are, by range too, and added to without compressing anything anew."""
    make(path, VALUES, method)
    mapping = ZipMapping(path)
    assert dict(mapping) == VALUES
    assert mapping.read("c/0/0", 300, 310) == VALUES["c/0/0"][300:310]
    assert mapping.read("c/0/0", -3) == VALUES["c/0/0"][-3:]
    assert mapping.size("c/0/0") == 10_240
    mapping["new"] = b"1"
    mapping.close()
    assert content(path) == {**VALUES, "new": b"1"}
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("c/0/0").compress_type == method
        assert archive.getinfo("new").compress_type == zipfile.ZIP_STORED


@pytest.mark.parametrize("made", ["zip-c.zip", "zip-utf8.zip", "zip-streamed.zip"])
def test_archives_of_zip_tools(path: Path, made: str) -> None:
    """With folders, which are no keys; with names in UTF-8 that do not say so, as ``zip`` writes in the plain locale;
    and with data descriptors, as it streams.
    """
    shutil.copy(DATA / made, path)
    with zipfile.ZipFile(path) as archive:
        assert "c/" in archive.namelist()
    mapping = ZipMapping(path)
    assert dict(mapping) == VALUES
    mapping["c/0/1"] = b"no longer empty"
    mapping.close()
    assert dict(mapping) == content(path) == {**VALUES, "c/0/1": b"no longer empty"}


def test_entries_with_a_data_descriptor_keep_it(path: Path) -> None:
    """A writer that cannot seek puts sizes and checksum behind the data."""

    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

        def flush(self) -> None: ...

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]  # it writes, no more
        for name, value in VALUES.items():
            archive.writestr(name, value)
        assert archive.getinfo("c/0/0").flag_bits & 0x08
    path.write_bytes(pipe.data)
    mapping = ZipMapping(path)
    del mapping["zarr.json"]
    mapping.close()
    rest = {name: value for name, value in VALUES.items() if name != "zarr.json"}
    assert dict(mapping) == content(path) == rest


def test_the_last_of_duplicates_counts(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for number in range(5):
            archive.writestr("k", b"%d" % number)
            archive.writestr(f"l{number}", b"")
    mapping = ZipMapping(path)
    assert (mapping["k"], len(mapping)) == (b"4", 6)
    mapping["new"] = b"1"
    mapping.close()
    assert content(path) == {"k": b"4", "new": b"1", **{f"l{number}": b"" for number in range(5)}}


def test_names_in_the_old_encoding(path: Path) -> None:
    """Without the flag of UTF-8 a name is in code page 437; in the new version it is UTF-8, in header and directory."""
    make(path, {"xxx": b"1", "plain": b"2"})
    path.write_bytes(path.read_bytes().replace(b"xxx", "éß/".encode("cp437")[:2] + b"x"))
    mapping = ZipMapping(path)
    assert dict(mapping) == {"éßx": b"1", "plain": b"2"}
    mapping["new"] = b"3"
    mapping.close()
    assert content(path) == {"éßx": b"1", "plain": b"2", "new": b"3"}
    assert "éßx".encode() in path.read_bytes()[:100]


def test_an_archive_behind_a_program(path: Path) -> None:
    """What unpacks itself is read; what we write is an archive alone."""
    make(path, VALUES)
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    mapping = ZipMapping(path)
    assert dict(mapping) == VALUES
    mapping["new"] = b"1"
    mapping.close()
    assert content(path) == {**VALUES, "new": b"1"}
    assert path.read_bytes().startswith(b"PK")


# -- what is damaged, or cannot be read -------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def garbage(path: Path) -> None:
    path.write_bytes(b"no archive at all " * 1000)


def without_data(path: Path) -> None:
    """Cut out of the front: the directory is there and points behind the start."""
    path.write_bytes(path.read_bytes()[5000:])


@pytest.mark.parametrize("spoil", [truncated, garbage, without_data])
def test_what_is_no_archive_is_corrupt(path: Path, spoil: Callable[[Path], None]) -> None:
    """It is told apart from an empty store, and never overwritten."""
    make(path, VALUES)
    spoil(path)
    before = path.read_bytes()
    mapping = ZipMapping(path)
    with pytest.raises(StoreCorruptError, match=str(path)):
        mapping["c/0/0"]
    with pytest.raises(StoreCorruptError, match=str(path)):
        mapping["c/0/0"] = b""
    mapping.close()
    assert path.read_bytes() == before


def test_a_file_without_a_byte_is_a_new_archive_unless_it_has_been_another(path: Path) -> None:
    """A temporary file can become an archive; one that has lost everything is damaged, and not empty."""
    path.touch(mode=0o600)
    mapping = ZipMapping(path)
    assert list(mapping) == []
    mapping["k"] = b"1"
    mapping.close()
    assert content(path) == {"k": b"1"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert mapping["k"] == b"1"
    path.write_bytes(b"")
    for ask in (lambda: mapping["k"], lambda: list(mapping), lambda: mapping.__setitem__("k", b"2")):
        with pytest.raises(StoreCorruptError, match="no zip archive, or a damaged one"):
            ask()
    mapping.revert()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_flipped_byte_is_ever_a_value(path: Path, method: int) -> None:
    """Wherever it is, in header, data or directory: the value, or an error that names archive and key."""
    value = bytes(random.Random(1).randbytes(200)) * 2  # noqa: S311  # any bytes
    make(path, {"key": value}, method)
    whole = path.read_bytes()
    errors: list[StoreError] = []
    for at in range(len(whole)):
        path.unlink()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        mapping = ZipMapping(path)
        try:
            assert mapping.get("key") in (None, value)
        except StoreError as error:
            errors.append(error)
    assert len(errors) > 150
    assert all(str(path) in str(error) for error in errors)


def test_an_entry_that_is_not_where_the_directory_says(path: Path) -> None:
    """Ranges have no checksum: the header is looked at."""
    make(path, {"a": b"1" * 50, "b": b"2" * 50})
    whole = bytearray(path.read_bytes())
    at = whole.rindex(b"PK\x01\x02")  # the directory's entry of b
    whole[at + 42 : at + 46] = struct.pack("<I", 0)  # points at a
    path.write_bytes(whole)
    mapping = ZipMapping(path)
    assert mapping.read("a", 1, 3) == b"11"
    with pytest.raises(StoreCorruptError, match=r"'b'.*another's"):
        mapping.read("b", 1, 3)


def test_overlapping_entries_are_refused(path: Path) -> None:
    """A new version that held only a part of them would be damaged without a word."""
    make(path, {"a": b"1" * 50, "b": b"2" * 50})
    whole = bytearray(path.read_bytes())
    for place, sizes in ((18, 0), (whole.index(b"PK\x01\x02") + 20, 0)):
        whole[place + sizes : place + sizes + 8] = struct.pack("<II", 120, 120)
    path.write_bytes(whole)
    mapping = ZipMapping(path)
    mapping["c"] = b"3"
    with pytest.raises(StoreCorruptError, match=r"'a'.*overlaps"):
        mapping.close()
    assert path.read_bytes() == bytes(whole)
    mapping["a"] = b"rewritten"
    mapping.close()
    assert dict(mapping) == {"a": b"rewritten", "b": b"2" * 50, "c": b"3"}


def test_encrypted_entries_say_so(path: Path) -> None:
    """They are listed, and copied; to read them is an error with a remedy."""
    shutil.copy(DATA / "zip-encrypted.zip", path)
    mapping = ZipMapping(path)
    assert (list(mapping), mapping.size("secret")) == (["secret"], 60)
    for ask in (lambda: mapping["secret"], lambda: mapping.read("secret", 1, 2)):
        with pytest.raises(StoreAccessError, match=r"'secret'.*is encrypted: write"):
            ask()
    mapping["open"] = b"1"
    mapping.close()
    with zipfile.ZipFile(path) as archive:
        assert archive.read("secret", pwd=b"word") == b"hidden" * 10


def test_an_unknown_compression_says_so(path: Path) -> None:
    make(path, {"k": b"1" * 50})
    whole = bytearray(path.read_bytes())
    for at in (8, whole.index(b"PK\x01\x02") + 10):
        whole[at : at + 2] = struct.pack("<H", 98)  # PPMd
    path.write_bytes(whole)
    with pytest.raises(StoreCorruptError, match="stored or deflated"):
        ZipMapping(path)["k"]


def test_a_key_longer_than_the_format_allows(path: Path) -> None:
    mapping = ZipMapping(path)
    with pytest.raises(StoreOptionError, match="65535 bytes"):
        mapping["é" * 32_768] = b""
    mapping["x" * 65_535] = b"1"
    mapping.close()
    assert dict(mapping) == {"x" * 65_535: b"1"}


# -- larger than the old format ---------------------------------------------------------------------------------------


def test_more_entries_than_the_old_format_has(path: Path) -> None:
    """70,000: written, opened and added to."""
    mapping = ZipMapping(path)
    mapping.update_many((f"c/{number // 300}/{number % 300}", b"%d" % number) for number in range(70_000))
    mapping.close()
    assert len(mapping) == 70_000
    assert mapping["c/233/99"] == b"69999"
    mapping["c/0/0"] = b"again"
    mapping.close()
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == len(set(archive.namelist())) == 70_000
        assert archive.read("c/0/0") == b"again"
    mapping.close()


@pytest.mark.slow
def test_an_archive_over_four_gigabytes(path: Path) -> None:
    """Of a tool (sparse, so that it takes no room), with a value over 4 GB: read by range, and added to."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.writestr("before", b"1")
        info = zipfile.ZipInfo("large")
        with archive.open(info, "w", force_zip64=True) as entry:
            entry.write(b"begin")
        archive.writestr("after", b"2")
    sparse(path, LARGE)
    mapping = ZipMapping(path)
    assert mapping.size("large") == LARGE
    assert mapping.read("large", 0, 5) == b"begin"
    assert mapping.read("large", -3) == bytes(3)
    assert mapping.read("large", LARGE - 2, None) == bytes(2)
    assert mapping["after"] == b"2"
    mapping["new"] = b"3"
    mapping.close()
    assert (mapping["before"], mapping["after"], mapping["new"]) == (b"1", b"2", b"3")
    assert mapping.read("large", 0, 6) == b"begin\0"
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("new").header_offset > LARGE
        assert archive.read("new") == b"3"
    del mapping["large"]
    mapping.close()
    assert content(path) == {"before": b"1", "after": b"2", "new": b"3"}


def sparse(path: Path, length: int) -> None:
    """Stretch the entry "large" of an archive with a hole, and move what follows it."""
    with zipfile.ZipFile(path) as archive:
        before, large, after = archive.infolist()
        start = archive.start_dir
    whole = path.read_bytes()
    moved = length - large.file_size
    head, tail = whole[: after.header_offset], whole[after.header_offset : start]
    with path.open("wb") as file:
        file.write(head)
        at = large.header_offset
        extra = at + 30 + len("large")  # its zip64 field: kind, length, size, compressed size
        os.pwrite(file.fileno(), struct.pack("<QQ", length, length), extra + 4)
        file.seek(after.header_offset + moved)
        file.write(tail)
        large.file_size = large.compress_size = length
        after.header_offset += moved
        with zipfile.ZipFile(file, "w") as archive:
            archive.filelist.extend([before, large, after])
