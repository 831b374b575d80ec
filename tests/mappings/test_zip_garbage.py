"""Archives that lie: more than is said, less than is said, and bytes by chance."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.zip_files import content, make
from zarrstream.errors import StoreCorruptError, StoreError
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from pathlib import Path

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
VALUES = {"zarr.json": b"{}", "c/0": bytes(range(256)) * 4, "c/1": b"x" * 1000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


def _bomb(path: Path, method: int, claimed: int) -> None:
    """Write an archive whose one value is 64 MB of zeros (stored: ten bytes), and is said to have another length."""
    make(path, {"bomb": bytes(64 << 20 if method else 10)}, method)
    whole = bytearray(path.read_bytes())
    struct.pack_into("<I", whole, whole.rindex(b"PK\x01\x02") + 24, claimed)
    path.write_bytes(whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_value_takes_no_more_memory_than_the_directory_says(path: Path, method: int) -> None:
    """However much it would become; of a stored one no room is made for what is not there."""
    claimed = 1000 if method else 2 << 30
    _bomb(path, method, claimed)
    mapping = ZipMapping(path)
    assert mapping.size("bomb") == claimed
    tracemalloc.start()
    try:
        for ask in (lambda: mapping["bomb"], lambda: mapping.read("bomb", 1, 10)):
            with pytest.raises(StoreCorruptError, match=r"'bomb'.*is damaged"):
                ask()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    mapping.close()


def test_what_the_decompressors_of_the_format_give_is_right(path: Path) -> None:
    """Empty values, and such as do not compress, by each of the standard library's compressors."""
    values = {"empty": b"", "noise": os.urandom(70_000), "long": b"ab" * 200_000}
    for method in METHODS:
        make(path, values, method)
        mapping = ZipMapping(path)
        assert dict(mapping) == values
        mapping.close()


@pytest.fixture(scope="module")
def archives() -> list[bytes]:
    """The bytes of one archive per way of compression."""
    made = []
    for method in METHODS:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, value in VALUES.items():
                archive.writestr(name, value)
        made.append(buffer.getvalue())
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbage_is_an_error_of_ours_in_bounded_memory(
    tmp_path: Path, archives: list[bytes], data: st.DataObject
) -> None:
    """Whatever bytes of an archive are others: reading, and a new version; and no value comes out wrong."""
    spoilt = bytearray(data.draw(st.sampled_from(archives)))
    for _ in range(data.draw(st.integers(1, 4))):
        # The ends of the file are where everything is decided.
        position = data.draw(st.integers(1, min(len(spoilt), 300)))
        at = position - 1 if data.draw(st.booleans()) else len(spoilt) - position
        width = data.draw(st.sampled_from([1, 2, 4]))
        spoilt[at : at + width] = data.draw(st.binary(min_size=width, max_size=width))
    if data.draw(st.booleans()):
        del spoilt[data.draw(st.integers(0, len(spoilt))) :]
    path = tmp_path / "x.zip"
    path.write_bytes(spoilt)
    mapping = ZipMapping(path)
    tracemalloc.start()
    try:
        readable = _readable(mapping)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    try:
        mapping["new"] = b"1"
        mapping.flush()
    except StoreError:
        mapping.revert()
    else:
        assert _readable(mapping) == {**readable, "new": b"1"}
    mapping.close()
    path.unlink()


def _readable(mapping: ZipMapping) -> dict[str, bytes]:
    found = {}
    try:
        names = list(mapping)
    except StoreError:
        return {}
    for name in names:
        try:
            found[name] = mapping[name]
        except StoreError:
            continue
        assert len(found[name]) == mapping.size(name)
    return found


def test_an_entry_behind_the_directory_is_named_and_loses_nothing(path: Path) -> None:
    """The new version cannot be made; what is pending stays, and without the key it can."""
    make(path, {"a": b"1", "bad": b"2"})
    whole = bytearray(path.read_bytes())
    at = whole.rindex(b"bad") - 46  # its entry in the directory
    struct.pack_into("<I", whole, at + 42, len(whole) - 10)
    path.write_bytes(whole)
    mapping = ZipMapping(path)
    mapping["new"] = b"3"
    for publish in (mapping.flush, mapping.close):
        with pytest.raises(StoreCorruptError, match=r"'bad'.*delete or rewrite the key"):
            publish()
    assert mapping["new"] == b"3"
    del mapping["bad"]
    mapping.close()
    assert content(path) == {"a": b"1", "new": b"3"}
