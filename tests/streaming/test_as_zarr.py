"""Whatever a user has put between zarr and the bytes, streams behave as `array[...]` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import cpu
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_buffer, register_codec, register_ndbuffer, register_pipeline
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from tests.streaming.spies import filled
from zarrstream import ChunkReadError, stream_chunks, write_stream
from zarrstream.streaming.codecs.array import ArrayCodec
from zarrstream.streaming.transport.files import FileTransport
from zarrstream.streaming.transport.stores import runs_sync, sync_port

if TYPE_CHECKING:
    from pathlib import Path


def rebuilt(array: zarr.Array, **options: Any) -> np.ndarray:
    """The array, put together from its stream."""
    out = np.zeros(array.shape, dtype=array.dtype)
    for chunk in stream_chunks(array, **options):
        out[chunk.region] = chunk.data
    return out


class Inverting(WrapperStore[Any]):
    """A wrapper that keeps every chunk with its bits inverted, and changes the awaited methods alone."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        return value if value is None or key.endswith("json") else self._inverted(value)

    async def set(self, key: str, value: Any) -> None:
        await super().set(key, value if key.endswith("json") else self._inverted(value))

    @staticmethod
    def _inverted(value: Any) -> Any:
        return type(value).from_bytes(bytes(255 - byte for byte in value.to_bytes()))


class InvertingLocal(LocalStore):
    """A subclass of LocalStore that does the same."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        return value if value is None or key.endswith("json") else Inverting._inverted(value)

    async def set(self, key: str, value: Any) -> None:
        await super().set(key, value if key.endswith("json") else Inverting._inverted(value))


@pytest.mark.parametrize("kind", ["wrapper", "wrapper of wrapper", "subclass", "instance"])
@pytest.mark.parametrize("options", [{}, {"shards": (10, 8)}])
def test_changed_stores_are_not_bypassed(kind: str, options: dict, tmp_path: Path) -> None:
    """A wrapper, a subclass of LocalStore or a patched instance sees every byte."""
    if kind == "subclass":
        store: Any = InvertingLocal(tmp_path)
    elif kind == "instance":
        store = LocalStore(tmp_path)
        other = InvertingLocal(tmp_path)
        store.get, store.set = other.get, other.set
    else:
        store = Inverting(LocalStore(tmp_path))
        if kind == "wrapper of wrapper":
            store = WrapperStore(store)
    assert not runs_sync(store)
    array, values = filled(store, shape=(20, 16), **options)
    assert (rebuilt(array) == values).all()
    write_stream(array, [((slice(0, 20), slice(0, 16)), values + 1)])
    assert (array[...] == values + 1).all()
    assert (rebuilt(array) == values + 1).all()


def test_straight_from_files_only_where_that_is_the_same(tmp_path: Path) -> None:
    """Files are opened directly for a plain LocalStore alone."""
    array, _ = filled(LocalStore(tmp_path))
    assert isinstance(sync_port(ArrayCodec(array)), FileTransport)
    assert not isinstance(
        sync_port(ArrayCodec(filled(type("Mine", (LocalStore,), {})(tmp_path / "a"))[0])), FileTransport
    )
    assert sync_port(ArrayCodec(filled(Inverting(LocalStore(tmp_path / "b")))[0])) is None
    assert not isinstance(sync_port(ArrayCodec(filled(MemoryStore())[0])), FileTransport)


class CountingPipeline(BatchedCodecPipeline):
    """Another codec pipeline: it must be the one that decodes."""

    reads = writes = 0

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        type(self).reads += 1
        return await super().read(*args, **kwargs)

    async def write(self, *args: Any, **kwargs: Any) -> Any:
        type(self).writes += 1
        return await super().write(*args, **kwargs)


@pytest.mark.parametrize("options", [{}, {"shards": (10, 8)}])
def test_another_pipeline_is_used(options: dict, tmp_path: Path) -> None:
    """With another codec pipeline zarr itself reads and writes, one stored object at a time."""
    register_pipeline(CountingPipeline)
    path = f"{CountingPipeline.__module__}.{CountingPipeline.__qualname__}"
    with zarr.config.set({"codec_pipeline.path": path}):
        array, values = filled(LocalStore(tmp_path), shape=(20, 16), **options)
        CountingPipeline.reads = CountingPipeline.writes = 0
        assert (rebuilt(array) == values).all()
        assert CountingPipeline.reads >= (4 if options else 16)
        write_stream(array, [((slice(0, 20), slice(0, 16)), values + 1)])
        assert CountingPipeline.writes >= (4 if options else 16)
        assert (array[...] == values + 1).all()
        assert len(list(stream_chunks(array, region=(slice(3, 4),)))) == 4


class MyBuffer(cpu.Buffer):
    """Another buffer class."""


class MyNDBuffer(cpu.NDBuffer):
    """Another array buffer class; it counts what is made with it."""

    made = 0

    @classmethod
    def create(cls, **kwargs: Any) -> Any:
        cls.made += 1
        return super().create(**kwargs)


def test_another_prototype_is_used() -> None:
    """With other buffer classes zarr itself reads, and they are what it reads with."""
    register_buffer(MyBuffer)
    register_ndbuffer(MyNDBuffer)
    names = {
        "buffer": f"{MyBuffer.__module__}.{MyBuffer.__qualname__}",
        "ndbuffer": f"{MyNDBuffer.__module__}.{MyNDBuffer.__qualname__}",
    }
    with zarr.config.set(names):
        array, values = filled(MemoryStore())
        MyNDBuffer.made = 0
        assert (rebuilt(array) == values).all()
        assert ArrayCodec(array).opaque


class HalfZstd(ZstdCodec):
    """A codec that changes only its awaited form; the inherited synchronous one would bypass it."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        raise RuntimeError("this codec wants to be awaited")


def test_changed_codecs_are_not_bypassed() -> None:
    """A codec whose class changes only the awaited method is awaited."""
    register_codec("half_zstd", HalfZstd)
    array, _ = filled(MemoryStore(), compressors=HalfZstd())
    with pytest.raises(RuntimeError, match="awaited"):
        array[...]
    with pytest.raises(ChunkReadError, match="awaited"):
        list(stream_chunks(array))


@pytest.mark.parametrize("options", [{}, {"shards": (10, 8)}])
def test_write_empty_chunks(options: dict) -> None:
    """Chunks that equal the fill value are elided, or written where the array says so: as zarr does."""
    for write_empty in (False, True):
        stores = []
        for by_stream in (False, True):
            array = zarr.create_array(
                MemoryStore(), shape=(20, 16), chunks=(5, 4), dtype="i4", fill_value=7,
                config={"write_empty_chunks": write_empty}, **options,
            )  # fmt: skip
            array[...] = 1
            values = np.full((20, 16), 7, dtype="i4")
            values[0, 0] = 1
            if by_stream:
                report = write_stream(array, [((slice(0, 20), slice(0, 16)), values)])
                assert report.written == 16
            else:
                array[...] = values
            assert (array[...] == values).all()
            stores.append(set(array.store._store_dict))
        assert stores[0] == stores[1]


@pytest.mark.parametrize("options", [{}, {"shards": (10, 8)}])
def test_read_missing_chunks_off(options: dict) -> None:
    """Where zarr refuses to read an absent chunk, the stream does, with zarr's own error as the cause."""
    has_it = "array.read_missing_chunks" in zarr.config  # zarr has it from 3.3 on
    config = {"read_missing_chunks": False} if has_it else {}
    array, _ = filled(MemoryStore(), shape=(20, 16), config=config, **options)
    key = "c/1/1"
    array.store._store_dict.pop(key)
    if not has_it:
        assert (rebuilt(array) == array[...]).all()
        return
    with pytest.raises(zarr.errors.ChunkNotFoundError):
        array[...]
    with pytest.raises(ChunkReadError, match=key) as caught:
        list(stream_chunks(array))
    assert isinstance(caught.value.__cause__, zarr.errors.ChunkNotFoundError)
    assert len(list(stream_chunks(array, include_missing=False))) == (12 if options else 15)
