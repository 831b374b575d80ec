"""Zstandard frames with a context that each thread keeps, where the package ``zstandard`` is installed.

numcodecs makes a context for every call and clears it: a third of the time that a frame of 16 KiB takes to unpack, and
a sixth of what it takes to pack (``perf record``, see docs/benchmarks.md). What comes out is the same: frames that this
package refuses are put to numcodecs, and it packs only where its release of libzstd is the one that numcodecs has.
"""

from __future__ import annotations

import importlib
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
        self.decompress: Callable[..., bytes] | None = None
        self.compress: dict[tuple[int, bool], Callable[[Any], bytes]] = {}


_contexts = _Contexts()


def unpack_all(raws: list[Any]) -> list[Any]:
    """Unpack frames, or raise what numcodecs raises for the first that is none."""
    package = _zstandard()
    if package is None:
        return list(map(zstd.decompress, raws))
    decompress = _contexts.decompress
    if decompress is None:
        decompress = _contexts.decompress = package.ZstdDecompressor().decompress
    try:
        return [decompress(raw, read_across_frames=False, allow_extra_data=False) for raw in raws]
    except package.ZstdError:
        return list(map(zstd.decompress, raws))


def packer(codec: Any) -> Callable[[Any], Any]:
    """Return what packs as a `numcodecs.Zstd` does.

    Parameters
    ----------
    codec : numcodecs.Zstd
        With its level and whether frames have a checksum.
    """
    package = _zstandard()
    if package is None or _numcodecs_version() != package.ZSTD_VERSION:
        return codec.encode  # type: ignore[no-any-return]  # numcodecs has no types
    settings = (codec.level, codec.checksum)

    def pack(data: Any) -> bytes:
        compress = _contexts.compress.get(settings)
        if compress is None:
            made = package.ZstdCompressor(level=settings[0], write_checksum=settings[1])
            compress = _contexts.compress[settings] = made.compress
        return compress(data)

    return pack


def _numcodecs_version() -> tuple[int, int, int]:
    return zstd.MAJOR_VERSION_NUMBER, zstd.MINOR_VERSION_NUMBER, zstd.MICRO_VERSION_NUMBER
