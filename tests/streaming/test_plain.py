"""The short way through plain chains gives what zarr's own codecs give, damaged bytes and wrong lengths included."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from zarrstream.streaming.codecs.array import ArrayCodec
from zarrstream.streaming.codecs.chain import Chain

FORMAT_3 = [
    [],
    [ZstdCodec(level=1)],
    [ZstdCodec(level=3, checksum=True)],
    [BloscCodec(cname="lz4")],
    [BloscCodec(cname="zstd", shuffle="bitshuffle")],
    [GzipCodec(level=1)],
    [Crc32cCodec()],
    [ZstdCodec(level=1), Crc32cCodec()],
    [BloscCodec(), Crc32cCodec()],
]
FORMAT_2 = [None, numcodecs.Zstd(1), numcodecs.Blosc("lz4"), numcodecs.GZip(1), numcodecs.LZ4(), numcodecs.Zlib(1)]
DTYPES = ["i1", "<u2", "<i4", "<f8", "f4", "bool", "<c8"]


def made(dtype: str, shape: tuple[int, ...], zarr_format: int, at: int, order: Any) -> zarr.Array:
    compressors: Any = FORMAT_3[at % len(FORMAT_3)] if zarr_format == 3 else FORMAT_2[at % len(FORMAT_2)]
    return zarr.create_array(
        {}, shape=shape, chunks=shape, dtype=dtype, zarr_format=zarr_format, fill_value=0,
        compressors=compressors or None, **({"order": order} if zarr_format == 2 else {}),
    )  # fmt: skip


def zarrs_own(chain: Chain) -> Chain:
    """The same chain, held to zarr's codecs."""
    other = object.__new__(Chain)
    other.__dict__.update(chain.__dict__, plain=None)
    return other


def outcome(decode: Any, raw: bytes) -> Any:
    try:
        return decode(raw)
    except Exception as error:  # noqa: BLE001  # what it is, is compared
        return error


@given(st.data())
def test_the_short_way_is_zarrs_way(data: st.DataObject) -> None:
    """Same bytes out, same values in; what zarr refuses is refused, and nothing else comes for it."""
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=3, max_side=9))
    zarr_format = data.draw(st.sampled_from([2, 3]))
    array = made(dtype, shape, zarr_format, data.draw(st.integers(0, 100)), data.draw(st.sampled_from("CF")))
    codec = ArrayCodec(array)
    chain, other = codec._chain, zarrs_own(codec._chain)
    plain = codec.plain
    assert plain is not None
    values = data.draw(npst.arrays(np.dtype(dtype), shape))
    raw, expected = chain.encode(values), other.encode(values)
    assert (raw is None) == (expected is None)
    if raw is None or expected is None:
        assert (values == 0).all()
        return
    raw, expected = bytes(memoryview(raw).cast("B")), bytes(memoryview(expected).cast("B"))
    if "zip" not in str(array.metadata).lower():  # gzip writes the time
        assert raw == expected
    np.testing.assert_array_equal(chain.decode(raw), values)
    np.testing.assert_array_equal(chain.decode(expected), values)
    damaged = data.draw(st.sampled_from(["cut", "longer", "flipped", "empty"]))
    at = data.draw(st.integers(0, len(raw) - 1))
    bad = {
        "cut": raw[:at],
        "longer": raw + b"\0" * (at + 1),
        "flipped": raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :],
        "empty": b"",
    }[damaged]
    ours, zarrs = outcome(chain.decode, bad), outcome(other.decode, bad)
    in_a_run = outcome(lambda bad: plain.array(plain.unpack_all([raw, bad])[1]), bad)
    if isinstance(zarrs, Exception) or (damaged == "cut" and "blosc" in str(array.metadata).lower()):
        # Of a Blosc frame that is cut numcodecs reads what lies behind it in memory; here it is refused.
        assert isinstance(ours, Exception), damaged
        assert isinstance(in_a_run, Exception), damaged
    elif damaged != "flipped" or not any(name in str(array.metadata).lower() for name in ("blosc", "lz4")):
        # These two have no checksum, and may leave what a flipped byte makes them skip as the memory was.
        np.testing.assert_array_equal(ours, zarrs)
        np.testing.assert_array_equal(in_a_run, zarrs)


@pytest.mark.parametrize(
    "options",
    [
        {"filters": [TransposeCodec(order=(1, 0))]},
        {"dtype": ">f4", "zarr_format": 2, "filters": [numcodecs.Delta(dtype=">f4")]},
        {"dtype": "S3", "zarr_format": 2},
        {"compressors": [ZstdCodec(), ZstdCodec(), Crc32cCodec()]},
        {"compressors": [type("Mine", (ZstdCodec,), {})()]},
    ],
)
def test_other_chains_take_the_long_way(options: dict[str, Any]) -> None:
    """Whatever is not exactly a known plain chain is left to zarr's codecs."""
    array = zarr.create_array({}, **{"shape": (4, 6), "chunks": (4, 6), "dtype": "f4", **options})
    assert ArrayCodec(array).plain is None


def test_large_zstd_frames_and_garbage_behind_them() -> None:
    """A frame that says more or less than the chunk's bytes is refused, never padded or cut."""
    array = zarr.create_array({}, shape=(8,), chunks=(8,), dtype="u1", compressors=ZstdCodec())
    codec = ArrayCodec(array)
    for size in (0, 7, 9, 1 << 20):
        with pytest.raises((ValueError, RuntimeError), match=r"reshape|buffer|size|Zstd"):
            codec.decode(numcodecs.Zstd(1).encode(bytes(size)))
    assert codec.decode(numcodecs.Zstd(1).encode(bytes(range(8)))).tolist() == list(range(8))
