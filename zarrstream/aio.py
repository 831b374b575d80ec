"""The streams under the same names, awaited; see `zarrstream.streaming.aio`."""

from zarrstream.streaming.aio import AsyncStream, stream_chunks, stream_slices, write_stream

__all__ = ["AsyncStream", "stream_chunks", "stream_slices", "write_stream"]
