"""zarr's words for values and ranges, in ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu

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


def fits(nbytes: int, wanted: ByteRequest | None) -> bool:
    """Return whether a value may be what was asked for: more bytes than that are another extent."""
    if isinstance(wanted, RangeByteRequest):
        return nbytes <= wanted.end - wanted.start
    return not isinstance(wanted, SuffixByteRequest) or nbytes <= wanted.suffix


def content(value: object) -> memoryview:
    """Return the bytes of a zarr Buffer, without a copy where they are in host memory."""
    if not isinstance(value, Buffer):
        raise TypeError(f"set(): `value` must be a Buffer instance. Got an instance of {type(value)} instead.")
    return memoryview(value.as_numpy_array())


def owned(value: Buffer) -> Buffer:
    """Return a Buffer of the same bytes whose memory nobody else can change: a copy, unless they lie in ``bytes``.

    For a call in a thread, which a cancelled or timed-out task does not end: the caller's memory is the caller's again
    at once, and the next values may be computed into it.
    """
    content(value)  # anything that is no Buffer is told at once
    array = value.as_numpy_array()
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return value if isinstance(base, bytes) else cpu.Buffer.from_bytes(array.tobytes())
