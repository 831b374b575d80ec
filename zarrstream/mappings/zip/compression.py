"""The compressed entries of other programs' archives, decompressed to the length that the directory tells at most."""

from __future__ import annotations

import bz2
import lzma
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# APPNOTE 5.8.8: the SDK's version, the length of the properties, and these: a byte of three numbers, and the size of
# the dictionary.
_LZMA_HEADER = struct.Struct("<2xHBI")
_LZMA_PROPERTIES = 5
_LITERAL_CONTEXTS, _LITERAL_POSITIONS = 9, 5
_SMALLEST_DICTIONARY = 4096


def decompressed(data: bytes, method: int, length: int) -> bytes:
    """Return what was compressed, and no more than one byte over its length, whatever the data would become.

    Parameters
    ----------
    data : bytes
        The compressed entry.
    method : int
        How, by the format's number.
    length : int
        The length that it is said to have, in bytes.

    Raises
    ------
    NotImplementedError
        There is no decompressor for this method here.
    ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, struct.error
        The data are damaged.
    """
    decompress = _METHODS.get(method)
    if decompress is None:
        raise NotImplementedError(f"method {method}, {zipfile.compressor_names.get(method, 'unknown')}")  # type: ignore[attr-defined]  # in typeshed it is missing
    return decompress(data, length + 1)


def _deflated(data: bytes, most: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)


def _bzip2(data: bytes, most: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, most)


def _lzma(data: bytes, most: int) -> bytes:
    length, properties, dictionary = _LZMA_HEADER.unpack_from(data)
    rest, literal_contexts = divmod(properties, _LITERAL_CONTEXTS)
    position_bits, literal_positions = divmod(rest, _LITERAL_POSITIONS)
    if length != _LZMA_PROPERTIES:
        raise ValueError("its LZMA properties have another length")
    lzma1 = {
        "id": lzma.FILTER_LZMA1,
        # It is allocated as it is told. None has to be larger than the value.
        "dict_size": min(dictionary, max(most, _SMALLEST_DICTIONARY)),
        "lc": literal_contexts,
        "lp": literal_positions,
        "pb": position_bits,
    }
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma1]).decompress(data[_LZMA_HEADER.size :], most)


_METHODS: dict[int, Callable[[bytes, int], bytes]] = {
    zipfile.ZIP_DEFLATED: _deflated,
    zipfile.ZIP_BZIP2: _bzip2,
    zipfile.ZIP_LZMA: _lzma,
}
