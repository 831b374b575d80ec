"""Zstandard frames with a context that each thread keeps, where the package ``zstandard`` is installed.

numcodecs makes a context for every call and clears it: a third of the time that a frame of 16 KiB takes to unpack, and
a sixth of what it takes to pack (``perf record``, see docs/benchmarks.md). What comes out is the same: frames that this
package refuses are put to numcodecs, and it packs only where its release of libzstd is the one that numcodecs has.
For frames of 128 KiB and more it is slower than numcodecs, and is not asked.
"""

from __future__ import annotations

import importlib
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from numcodecs import zstd

if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def _zstandard() -> Any | None:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        return None


class _Contexts(threading.local):
    """A thread's own: they may not be used by two at once, and go with it."""

    def __init__(self) -> None:
        self.unpack: Callable[..., Any] | None = None
        self.compressors: dict[tuple[int, bool], Any] = {}


_contexts = _Contexts()


def unpack_all(raws: list[Any], nbytes: int) -> list[Any]:
    """Unpack frames, or raise what numcodecs raises for the first that is none.

    Parameters
    ----------
    raws : list
        The frames.
    nbytes : int
        What each should unpack to; one that does not is numcodecs' to unpack or to refuse.

    Returns
    -------
    list
        Buffers. All are unpacked at once, without the interpreter lock in between, and may share their memory.
    """
    package = _zstandard()
    if package is None or not raws or not all(map(_is_one_frame, raws)):
        return list(map(zstd.decompress, raws))
    unpack = _contexts.unpack
    if unpack is None:
        unpack = _contexts.unpack = package.ZstdDecompressor().multi_decompress_to_buffer
    try:
        # With the sizes from us: it would trust those in the frames, a 0 and the highest numbers included.
        return list(unpack(raws, decompressed_sizes=nbytes.to_bytes(8, sys.byteorder) * len(raws), threads=1))
    except (ValueError, package.ZstdError):
        return list(map(zstd.decompress, raws))


def _starts() -> list[int]:
    """Where the first block of a frame starts, by the frame header's descriptor (RFC 8878, 3.1.1.1); 0: not known."""
    starts = []
    for descriptor in range(256):
        single, reserved, dictionary = descriptor & 0x20, descriptor & 0x08, descriptor & 0x03
        size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        starts.append(0 if reserved or dictionary else 5 + (0 if single else 1) + size)
    return starts


_STARTS = _starts()


def _is_one_frame(raw: Any) -> bool:
    """Whether bytes are as long as one frame of one block: what lies behind it ``zstandard`` would not see."""
    try:
        descriptor = raw[4]
        start = _STARTS[descriptor]
        block = raw[start] | raw[start + 1] << 8 | raw[start + 2] << 16  # last, kind, size: 1, 2 and 21 bits
    except IndexError:
        return False
    size = 1 if block & 6 == 2 else block >> 3  # noqa: PLR2004  # a block of one byte, repeated
    return bool(start and block & 1 and start + 3 + size + (4 if descriptor & 4 else 0) == len(raw))


class Packer:
    """Packs as a `numcodecs.Zstd` does: a chunk, or a run of them without the interpreter lock in between.

    Parameters
    ----------
    codec : numcodecs.Zstd
        With its level and whether frames have a checksum.
    """

    def __init__(self, codec: Any) -> None:
        self._settings = (codec.level, codec.checksum)

    def __call__(self, data: Any) -> Any:
        """Pack one chunk."""
        return self._compressor().compress(data)

    def pack_all(self, chunks: list[Any]) -> list[Any]:
        """Pack several chunks, none of them empty."""
        return list(self._compressor().multi_compress_to_buffer(chunks, threads=1)) if chunks else []

    def _compressor(self) -> Any:
        made = _contexts.compressors.get(self._settings)
        if made is None:
            level, checksum = self._settings
            package: Any = _zstandard()
            made = _contexts.compressors[self._settings] = package.ZstdCompressor(level=level, write_checksum=checksum)
        return made


def packer(codec: Any) -> Callable[[Any], Any]:
    """Return what packs as a `numcodecs.Zstd` does: a `Packer` where that gives the same bytes."""
    package = _zstandard()
    if package is None or _numcodecs_version() != package.ZSTD_VERSION:
        return codec.encode  # type: ignore[no-any-return]  # numcodecs has no types
    return Packer(codec)


def _numcodecs_version() -> tuple[int, int, int]:
    return zstd.MAJOR_VERSION_NUMBER, zstd.MINOR_VERSION_NUMBER, zstd.MICRO_VERSION_NUMBER
