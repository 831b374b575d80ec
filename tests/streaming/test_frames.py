"""Zstandard with contexts that are kept says what numcodecs says, byte for byte."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numcodecs
from hypothesis import given

from tests.optional import require
from zarrstream.streaming.codecs import zstd as frames

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


@given(st.integers(1, 300), st.lists(st.tuples(LEVELS, st.booleans()), max_size=4), st.integers(0, 3), st.data())
def test_a_run_is_unpacked_as_numcodecs_would(
    nbytes: int, settings: list[tuple[int, bool]], damaged: int, data: st.DataObject
) -> None:
    """Same contents; of a run with a frame that is cut, flipped, longer or another's, the error is numcodecs' own."""
    contents = [data.draw(st.binary(min_size=nbytes, max_size=nbytes)) for _ in settings]
    packed = [numcodecs.Zstd(*given).encode(content) for given, content in zip(settings, contents, strict=True)]
    if damaged < len(packed):
        frame = packed[damaged]
        at = data.draw(st.integers(0, len(frame) - 1))
        flipped = frame[:at] + bytes([frame[at] ^ data.draw(st.integers(1, 255))]) + frame[at + 1 :]
        other = numcodecs.Zstd(1).encode(bytes(data.draw(st.integers(0, 600))))
        packed[damaged] = data.draw(st.sampled_from([frame[:at], frame + frame, frame + b"x", flipped, other, b""]))
    ours = outcome(lambda: list(map(bytes, frames.unpack_all(packed, nbytes))))
    theirs = outcome(lambda: list(map(numcodecs.zstd.decompress, packed)))
    assert ours == theirs


@given(CONTENTS, LEVELS, st.booleans())
def test_what_is_packed_is_what_numcodecs_packs(content: bytes, level: int, checksum: bool) -> None:
    """The bytes in the store do not depend on whether ``zstandard`` is installed."""
    codec = numcodecs.Zstd(level, checksum)
    pack = frames.packer(codec)
    assert pack(memoryview(content)) == codec.encode(content)
    if isinstance(pack, frames.Packer):
        other = content[::-1] + b"x"
        assert list(map(bytes, pack.pack_all([content, other]))) == [codec.encode(content), codec.encode(other)]


def test_the_kept_contexts_are_used_where_libzstd_is_the_same() -> None:
    """One release of libzstd packs through a kept context; of another numcodecs keeps the packing."""
    zstandard = require("zstandard")
    codec = numcodecs.Zstd(1)
    zstd = numcodecs.zstd
    same = (zstd.MAJOR_VERSION_NUMBER, zstd.MINOR_VERSION_NUMBER, zstd.MICRO_VERSION_NUMBER) == zstandard.ZSTD_VERSION
    assert isinstance(frames.packer(codec), frames.Packer) == same


def test_without_the_package_numcodecs_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``zstandard`` is an extra."""
    monkeypatch.setattr(frames, "_zstandard", lambda: None)
    codec = numcodecs.Zstd(1)
    assert frames.packer(codec) == codec.encode
    assert frames.unpack_all([codec.encode(b"x" * 99)], 99) == [b"x" * 99]


def test_every_thread_has_its_own_contexts() -> None:
    """Threads that pack and unpack at once do not get into each other's frames."""
    pack = frames.packer(numcodecs.Zstd(1))
    start, wrong = threading.Barrier(4), []

    def work(number: int) -> None:
        content = bytes([number]) * 9999 + bytes(range(200))
        start.wait(10)
        for _ in range(200):
            unpacked = frames.unpack_all([pack(content)] * 3, len(content))
            wrong.extend(number for found in unpacked if bytes(found) != content)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
