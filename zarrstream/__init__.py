"""zarrstream: stores, streams and sight for zarr-python."""

import zarr as _zarr  # noqa: F401  # whole and first: begun by one of its inner modules it takes 20 % longer to import

from zarrstream import aio
from zarrstream.errors import (
    CheckpointLockedError,
    CheckpointMismatchError,
    ChunkError,
    ChunkReadError,
    ChunkTimeoutError,
    ChunkWriteError,
    MissingExtraError,
    PartialWriteError,
    SlabTooLargeError,
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOptionError,
    StoreTimeoutError,
    StoreUnavailableError,
    TransactionConflictError,
    UnalignedChunkError,
    UnsupportedArrayError,
    ZarrStreamError,
)
from zarrstream.mappings.base import ByteMapping
from zarrstream.stores.mapping import MappingStore
from zarrstream.stores.opening import list_stores, open_store, register_store
from zarrstream.stores.wrappers.cached import CachedStore
from zarrstream.stores.wrappers.chunk_cache import ChunkCache
from zarrstream.stores.wrappers.resilient import ResilientStore
from zarrstream.stores.wrappers.retry import Retry
from zarrstream.stores.wrappers.traced import TracedStore
from zarrstream.streaming.chunk import Chunk, Progress, Slice, WriteReport
from zarrstream.streaming.codecs.array import chunk_region
from zarrstream.streaming.read import ChunkStream, stream_chunks
from zarrstream.streaming.slices import SliceStream, stream_slices
from zarrstream.streaming.write import write_stream
from zarrstream.streaming.writing.checkpoint import Checkpoint

__all__ = [
    "ByteMapping",
    "CachedStore",
    "Checkpoint",
    "CheckpointLockedError",
    "CheckpointMismatchError",
    "Chunk",
    "ChunkCache",
    "ChunkError",
    "ChunkReadError",
    "ChunkStream",
    "ChunkTimeoutError",
    "ChunkWriteError",
    "MappingStore",
    "MissingExtraError",
    "PartialWriteError",
    "Progress",
    "ResilientStore",
    "Retry",
    "SlabTooLargeError",
    "Slice",
    "SliceStream",
    "StoreAccessError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreOptionError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "TracedStore",
    "TransactionConflictError",
    "UnalignedChunkError",
    "UnsupportedArrayError",
    "WriteReport",
    "ZarrStreamError",
    "aio",
    "chunk_region",
    "list_stores",
    "open_store",
    "register_store",
    "stream_chunks",
    "stream_slices",
    "write_stream",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("zarrstream")
    raise AttributeError(f"module 'zarrstream' has no attribute {name!r}")
