"""The error of a chunk, with its name, its cause and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.errors import ChunkError, ChunkReadError, ChunkTimeoutError, ChunkWriteError
from zarrstream.streaming.arguments import of_another_loop
from zarrstream.streaming.engine.job import Overdue

if TYPE_CHECKING:
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.codecs.array import ArrayCodec


def read_error(codec: ArrayCodec, timeout: float | None, index: Index, cause: BaseException) -> ChunkError:
    """Return the error of a chunk that could not be read."""
    key, name = codec.key(codec.grid.object_of(index)), codec.named(index)
    if isinstance(cause, Overdue):
        thread = f"; thread {cause} is stuck in it and abandoned" if str(cause) else "; its request was cancelled"
        return ChunkTimeoutError(
            f"{name} took longer than timeout={timeout:g} s{thread}: raise timeout=, or see what holds it up",
            index=index,
            key=key,
        )
    found = f"{type(cause).__name__}: {cause}{of_another_loop(cause)}"
    error = ChunkReadError(f"{name} could not be read: {found}", index=index, key=key)
    error.__cause__ = cause
    return error


def write_error(codec: ArrayCodec, timeout: float | None, index: Index, cause: BaseException) -> ChunkError:
    """Return the error of a chunk that could not be written."""
    key, name = codec.key(codec.grid.object_of(index)), codec.named(index)
    if isinstance(cause, Overdue):
        thread = f"; thread {cause} is stuck in it and abandoned" if str(cause) else ""
        return ChunkTimeoutError(
            f"{name} took longer than timeout={timeout:g} s to write{thread}: whether it was "
            "stored is unknown, and no checkpoint has it. Raise timeout=, or see what holds it up, and try again",
            index=index,
            key=key,
        )
    found = f"{type(cause).__name__}: {cause}{of_another_loop(cause)}"
    error = ChunkWriteError(f"{name} could not be written: {found}", index=index, key=key)
    error.__cause__ = cause
    return error
