"""The plain chains of codecs, without zarr's layers between.

They are little-endian bytes, then nothing or one compressor, then nothing or a checksum. Their functions are the ones
that zarr's codecs call, so that they refuse what those refuse; a Blosc frame that is cut, too, which those do not see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numcodecs
import numpy as np
from numcodecs import blosc, zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.codecs._v2 import V2Codec

from zarrstream.streaming.codecs import zstd as frames
from zarrstream.streaming.transport.turns import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from zarr.core.array_spec import ArraySpec

    NDArray: TypeAlias = npt.NDArray[Any]

_KINDS = "biufcmM"
_BLOSC_HEADER = 16
_FORMAT_2 = (numcodecs.Blosc, numcodecs.GZip, numcodecs.LZ4, numcodecs.Zlib, numcodecs.Zstd)


@dataclass(frozen=True)
class PlainChain:
    """A chain that is one function there and one back.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values.
    shape : tuple of int
        Of a chunk, in elements.
    order : {"C", "F"}
        How the values lie in the bytes.
    unpack, pack : callable
        From stored bytes to the bytes of the values, and back.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Any
    unpack: Callable[[Any], Any]
    pack: Callable[[Any], Any]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one chunk's values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self, unpacked: Any) -> NDArray:
        """View unpacked bytes as the chunk that they are.

        Raises
        ------
        ValueError
            If there are too many or too few.
        """
        nbytes = len(unpacked) if type(unpacked) is bytes else memoryview(unpacked).nbytes
        if nbytes != self.nbytes:  # numpy would take a larger buffer, and leave its tail unseen
            raise ValueError(f"the chunk unpacks to a size of {nbytes} bytes, but its shape takes {self.nbytes}")
        return np.ndarray(self.shape, self.dtype, unpacked, 0, None, self.order)

    def unpack_all(self, raws: list[Any]) -> list[Any]:
        """Unpack a run's chunks."""
        if self.unpack is zstd.decompress and self.nbytes <= SMALL_BYTES:
            return frames.unpack_all(raws, self.nbytes)
        return list(map(self.unpack, raws))

    def decode(self, raw: Any) -> NDArray:
        """Turn a chunk's bytes into its values."""
        return self.array(self.unpack(raw))

    def encode(self, data: NDArray) -> Any:
        """Turn a whole chunk's values into bytes."""
        return self.pack(self._bytes(data))

    @property
    def encodes_together(self) -> bool:
        """Whether `encode_all` costs less than encoding one by one."""
        return isinstance(self.pack, frames.Packer)

    def encode_all(self, run: list[NDArray]) -> list[Any]:
        """Turn whole chunks' values into bytes, all at once."""
        assert isinstance(self.pack, frames.Packer)
        return self.pack.pack_all([self._bytes(data) for data in run])

    def _bytes(self, data: NDArray) -> NDArray:
        return data.ravel(order=self.order).view("B")


def plain_chain(codecs: list[Any], spec: ArraySpec) -> PlainChain | None:
    """Recognise a plain chain; None for any other, which zarr's own codecs run.

    Parameters
    ----------
    codecs : list of Codec
        The chain, array-to-array codecs first.
    spec : ArraySpec
        What one chunk is.
    """
    dtype = spec.dtype.to_native_dtype()
    if dtype.kind not in _KINDS or not spec.shape or not codecs:
        return None
    serializer, *rest = codecs
    if type(serializer) is V2Codec:
        return _format_2(serializer, spec, dtype) if not rest else None
    if type(serializer) is not BytesCodec or (dtype.itemsize > 1 and not _is_little(serializer, dtype)):
        return None
    stages = [_stage(codec, spec) for codec in rest]
    if len(stages) > 2 or any(stage is None for stage in stages):  # noqa: PLR2004 - a compressor and a checksum
        return None
    return PlainChain(dtype, spec.shape, "C", *_chained([stage for stage in stages if stage is not None]))


def _format_2(codec: Any, spec: ArraySpec, dtype: np.dtype[Any]) -> PlainChain | None:
    if codec.filters or (codec.compressor is not None and type(codec.compressor) not in _FORMAT_2):
        return None
    if codec.compressor is None:
        return PlainChain(dtype, spec.shape, spec.order, _same, _same)
    kind = type(codec.compressor)
    pack = _zstd_packer(codec.compressor, spec) if kind is numcodecs.Zstd else codec.compressor.encode
    unpack = {numcodecs.Zstd: zstd.decompress, numcodecs.Blosc: _unpack_blosc}.get(kind, codec.compressor.decode)
    # Blosc shuffles by the item size, which it takes from the buffer where the configuration leaves it open.
    typed = (lambda data: pack(data.view(dtype))) if kind is numcodecs.Blosc else pack
    return PlainChain(dtype, spec.shape, spec.order, unpack, typed)


def _stage(codec: Any, spec: ArraySpec) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """The two functions of a bytes-to-bytes codec, if it is exactly one that is known here."""
    kind = type(codec)
    if kind is ZstdCodec:
        return zstd.decompress, _zstd_packer(codec._zstd_codec, spec)
    if kind is BloscCodec:
        return _unpack_blosc, codec._blosc_codec.encode
    if kind is GzipCodec:
        return codec._gzip_codec.decode, codec._gzip_codec.encode
    if kind is Crc32cCodec:
        buffer = spec.prototype.buffer

        def check(raw: Any) -> Any:
            return codec._decode_sync(buffer.from_bytes(raw), spec).as_numpy_array()

        def sign(raw: Any) -> Any:
            return codec._encode_sync(buffer.from_bytes(raw), spec).as_buffer_like()

        return check, sign
    return None


def _zstd_packer(codec: Any, spec: ArraySpec) -> Callable[[Any], Any]:
    nbytes = math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
    return frames.packer(codec) if nbytes <= SMALL_BYTES else codec.encode


def _chained(stages: list[Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if not stages:
        return _same, _same
    if len(stages) == 1:
        return stages[0]  # type: ignore[no-any-return]  # a pair, as `_stage` makes them
    (unpack_first, pack_first), (unpack_last, pack_last) = stages
    return lambda raw: unpack_first(unpack_last(raw)), lambda data: pack_last(pack_first(data))


def _unpack_blosc(raw: Any) -> Any:
    """Unpack a Blosc frame that is there as a whole: of a shorter one numcodecs would read what lies behind it.

    The frame's size stands in bytes 12 to 16 of its header (https://github.com/Blosc/c-blosc, README_CHUNK_FORMAT).
    """
    size = memoryview(raw).nbytes
    if size < _BLOSC_HEADER or size < int.from_bytes(raw[12:16], "little"):
        raise ValueError(f"the Blosc frame is cut: {size} bytes are there, its header says more")
    return blosc.decompress(raw)


def _same(data: Any) -> Any:
    return data


def _is_little(codec: Any, dtype: np.dtype[Any]) -> bool:
    endian = getattr(codec.endian, "value", codec.endian)
    return endian == "little" and dtype.newbyteorder("=") == dtype and dtype.newbyteorder("<") == dtype
