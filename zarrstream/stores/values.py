"""zarr's words for values and ranges, in ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest


def bounds(wanted: ByteRequest | None) -> tuple[int, int | None]:
    """Return zarr's request as a half-open range; a negative start counts from the end."""
    if wanted is None:
        return 0, None
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, wanted.end
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, None
    if isinstance(wanted, SuffixByteRequest):
        # "-0" is the whole value, and the last 0 bytes are none.
        return (-wanted.suffix, None) if wanted.suffix else (0, 0)
    raise TypeError(f"Unexpected byte_range, got {wanted}.")


def content(value: object) -> memoryview:
    """Return the bytes of a zarr Buffer, without a copy where they are in host memory."""
    if not isinstance(value, Buffer):
        raise TypeError(f"set(): `value` must be a Buffer instance. Got an instance of {type(value)} instead.")
    return memoryview(value.as_numpy_array())
