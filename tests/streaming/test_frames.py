"""Zstandard with contexts that are kept says what numcodecs says, byte for byte."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numcodecs
from hypothesis import given

from tests.optional import require
from zarrstream.streaming import frames

if TYPE_CHECKING:
    import pytest

LEVELS = st.integers(-7, 12)
CONTENTS = st.one_of(
    st.binary(min_size=1, max_size=999),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=99), st.integers(1, 999)),
)


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  # what it is, is compared
        return type(error), str(error)


@given(st.lists(CONTENTS, max_size=4), LEVELS, st.booleans(), st.integers(0, 3), st.data())
def test_a_run_is_unpacked_as_numcodecs_would(
    contents: list[bytes], level: int, checksum: bool, damaged: int, data: st.DataObject
) -> None:
    """Same contents; of a run with a frame that is cut, flipped or longer, the error is numcodecs' own."""
    codec = numcodecs.Zstd(level, checksum)
    packed = [codec.encode(content) for content in contents]
    if damaged < len(packed):
        frame = packed[damaged]
        at = data.draw(st.integers(0, len(frame) - 1))
        packed[damaged] = data.draw(
            st.sampled_from([frame[:at], frame + frame, frame + b"x", frame[:at] + b"\xa5" + frame[at + 1 :]])
        )
    ours, theirs = outcome(frames.unpack_all, packed), outcome(lambda: list(map(numcodecs.zstd.decompress, packed)))
    if isinstance(ours, list) and b"" in ours:  # a size of 0, which no chunk has: its length is checked later
        assert isinstance(theirs, tuple)
    else:
        assert ours == theirs


@given(CONTENTS, LEVELS, st.booleans())
def test_what_is_packed_is_what_numcodecs_packs(content: bytes, level: int, checksum: bool) -> None:
    """The bytes in the store do not depend on whether ``zstandard`` is installed."""
    codec = numcodecs.Zstd(level, checksum)
    assert frames.packer(codec)(memoryview(content)) == codec.encode(content)


def test_the_kept_contexts_are_used_where_libzstd_is_the_same() -> None:
    """One release of libzstd packs through a kept context; of another numcodecs keeps the packing."""
    zstandard = require("zstandard")
    codec = numcodecs.Zstd(1)
    zstd = numcodecs.zstd
    same = (zstd.MAJOR_VERSION_NUMBER, zstd.MINOR_VERSION_NUMBER, zstd.MICRO_VERSION_NUMBER) == zstandard.ZSTD_VERSION
    assert (frames.packer(codec) != codec.encode) == same


def test_without_the_package_numcodecs_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``zstandard`` is an extra."""
    monkeypatch.setattr(frames, "_zstandard", lambda: None)
    codec = numcodecs.Zstd(1)
    assert frames.packer(codec) == codec.encode
    assert frames.unpack_all([codec.encode(b"x" * 99)]) == [b"x" * 99]


def test_every_thread_has_its_own_contexts() -> None:
    """Threads that pack and unpack at once do not get into each other's frames."""
    pack = frames.packer(numcodecs.Zstd(1))
    start, wrong = threading.Barrier(4), []

    def work(number: int) -> None:
        content = bytes([number]) * 9999 + bytes(range(200))
        start.wait(10)
        wrong.extend(number for _ in range(200) if frames.unpack_all([pack(content)] * 3) != [content] * 3)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
