"""One chunk <-> its bytes: this file and `chain` are the only ones that touch zarr's private names.

An array's chain of codecs is looked at once. Where every codec can run synchronously the chain runs in the caller's
thread; an asynchronous codec goes through zarr's pipeline; and an array with a pipeline or buffer prototype that is
not zarr's default is left to zarr as a whole (`ArrayCodec.opaque`).
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zarr
from zarr.codecs import ShardingCodec
from zarr.core.array import AsyncArray
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.sync import _get_loop

from zarrstream.errors import UnsupportedArrayError
from zarrstream.identity import identity_of, unwrapped
from zarrstream.streaming.arguments import array_expected
from zarrstream.streaming.codecs.chain import Chain, evolved
from zarrstream.streaming.layout.grid import Grid, itemsize_of
from zarrstream.streaming.layout.shard import ShardLayout

if TYPE_CHECKING:
    import asyncio

    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.direct import PlainChain

    NDArray: TypeAlias = npt.NDArray[Any]

AnyArray: TypeAlias = "zarr.Array[Any] | AsyncArray[Any]"


class ArrayCodec:
    """What one array's chunks are made of, and how they become bytes.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        The array, of any format, data type and chain of codecs.

    Raises
    ------
    TypeError
        If it is no zarr array.
    UnsupportedArrayError
        If its chunk grid is not regular.
    """

    def __init__(self, array: AnyArray) -> None:
        self.array = async_array_of(array)
        self.metadata: Any = self.array.metadata
        self.grid = _grid_of(self.array)
        self.dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        self.prefix = f"{self.array.store_path.path}/" if self.array.store_path.path else ""
        self._separator = _separator_of(self.metadata) if self.grid.shape else None
        self._key_start = f"{self.prefix}c{self._separator}" if self.metadata.zarr_format != 2 else self.prefix  # noqa: PLR2004  # its keys begin so
        self._spec = _spec_of(self.array, self.grid)
        self._pipeline: Any = self.array.codec_pipeline
        self._chain = Chain(self._pipeline, self._spec)
        default = type(self._pipeline) is BatchedCodecPipeline and default_buffer_prototype() == cpu.buffer_prototype
        self.shard = self._shard_layout() if default else None
        self.opaque = not default or (self.grid.shards is not None and self.shard is None)
        if self.shard is not None:
            spec = replace(self._spec, shape=self.grid.chunks)
            self._inner = Chain(evolved(self._sharding.codecs, spec), spec)

    @property
    def read_missing(self) -> bool:
        """Whether an absent chunk reads as fill values; zarr's ``array.read_missing_chunks``, from 3.3 on."""
        return bool(getattr(self._spec.config, "read_missing_chunks", True))

    @property
    def document(self) -> str:
        """The name of the array's metadata document, beneath its path."""
        return "zarr.json" if self.metadata.zarr_format != 2 else ".zarray"  # noqa: PLR2004  # the format

    @property
    def dimension_names(self) -> tuple[str | None, ...]:
        """The names of the axes: format 3's own, or those that xarray keeps in the attributes of format 2."""
        names = getattr(self.metadata, "dimension_names", None) or self.array.attrs.get("_ARRAY_DIMENSIONS") or ()
        given: Any = (names,) if isinstance(names, str) else names
        is_names = isinstance(given, (list, tuple)) and all(name is None or isinstance(name, str) for name in given)
        return tuple(given) if is_names and len(given) == len(self.grid.shape) else ()

    def describe(self) -> dict[str, Any]:
        """What the stored bytes depend on: grids, data type, fill value, codecs, as the metadata document has them."""
        return self._described(self.metadata)

    def rendered(self, document: dict[str, Any]) -> dict[str, Any]:
        """Write an earlier answer of `describe` as the running zarr would; as it is, where zarr cannot read it."""
        extra = {"shards", "chunks"} if self.metadata.zarr_format != 2 else {"shards"}  # noqa: PLR2004  # its own "chunks"
        plain = {name: value for name, value in document.items() if name not in extra}
        if self.metadata.zarr_format != 2:  # noqa: PLR2004  # it has no such name
            plain["node_type"] = "array"
        try:
            with warnings.catch_warnings(action="ignore"):
                described = self._described(type(self.metadata).from_dict({**plain, "attributes": {}}))
        except Exception:  # noqa: BLE001  # of whatever kind: then the documents are compared as they are
            return document
        return {**described, **{name: document.get(name) for name in ("chunks", "shards")}}

    def _described(self, metadata: Any) -> dict[str, Any]:
        documents = metadata.to_buffer_dict(cpu.buffer_prototype)
        document = json.loads(documents["zarr.json" if "zarr.json" in documents else ".zarray"].to_bytes())
        for name in ("attributes", "node_type", "dimension_names"):
            document.pop(name, None)
        return {**document, "chunks": list(self.grid.chunks), "shards": self.grid.shards and list(self.grid.shards)}

    def key(self, obj: Index) -> str:
        """The store's key of a stored object: a chunk, or a shard where the array has them."""
        if self._separator is None:
            return self.prefix + str(self.metadata.encode_chunk_key(obj))
        return self._key_start + self._separator.join(map(str, obj))

    @cached_property
    def lock_name(self) -> object:
        """The store's name among the locks of this process."""
        # A store without an identity is in this process alone, and lives as long as the array.
        return identity_of(self.array.store) or id(unwrapped(self.array.store))

    async def store_repaired_document(self) -> None:
        """Store the array's metadata where zarr could read them only repaired, before chunks are written under them.

        zarr 3.4 and later read chunk sizes that no chunk grid can have, which older software stored, as others. Until
        the document is stored anew, other readers would look for the chunks elsewhere.

        Raises
        ------
        ValueError
            Another writer has stored another chunk size since the array was opened.
        """
        if getattr(self.metadata, "_stored_document", None) is not None:
            await self.array._store_repaired_document()

    def named(self, index: Index) -> str:
        """The name of a chunk in messages: its coordinates, its key and the store that it is in."""
        return f"chunk {index} (key {self.key(self.grid.object_of(index))!r} in {self.array.store_path.store})"

    def object_at(self, key: str) -> Index | None:
        """The stored object that a key of the store names, or None: the inverse of `key`.

        zarr 3.1.6 cannot decode the keys that it makes, so that the digits are taken and put to the proof.
        """
        digits = re.findall(r"\d+", key.removeprefix(self.prefix))
        index = tuple(map(int, digits))
        if len(index) != len(self.grid.shape):
            index = ()
        return index if len(index) == len(self.grid.shape) and self.key(index) == key else None

    def decode(self, raw: Any) -> NDArray:
        """Decode a stored object that is not a shard with a layout of its own, whole."""
        return self._native(self._chain.decode(raw))

    @property
    def plain(self) -> PlainChain | None:
        """The chain of one chunk where it is a plain one: of a shard's chunks, where there are shards."""
        return self._chain.plain if self.shard is None else self._inner.plain

    def decode_inner(self, raw: Any) -> NDArray:
        """Decode one chunk of a shard."""
        return self._native(self._inner.decode(raw))

    def encode(self, data: NDArray) -> Any | None:
        """Encode a whole stored object; None where zarr would elide it."""
        return self._chain.encode(self._contiguous(data))

    def encode_all(self, run: list[NDArray]) -> list[Any] | None:
        """Encode chunks at once, a shard's where there are shards; None where they are to be encoded one by one."""
        chain = self._chain if self.shard is None else self._inner
        return chain.encode_all([self._contiguous(data) for data in run])

    def encode_inner(self, data: NDArray) -> Any | None:
        """Encode one chunk of a shard; None where zarr would elide it."""
        return self._inner.encode(self._contiguous(data))

    @cached_property
    def fill(self) -> NDArray:
        """A whole chunk of fill values, read-only, of one element in memory: absent chunks are views of it."""
        return np.broadcast_to(self.filled((1,) * len(self.grid.chunks), writable=False), self.grid.chunks)

    def filled(self, shape: tuple[int, ...], *, writable: bool = True) -> NDArray:
        """Make an array of fill values.

        Parameters
        ----------
        shape : tuple of int
            Its shape in elements.
        writable : bool
            Whether it may be changed.
        """
        value = self._spec.fill_value
        if value is None:  # format 2 may leave it open
            value = self._spec.dtype.default_scalar()
        made = self._spec.prototype.nd_buffer.create(shape=shape, dtype=self.dtype, fill_value=value).as_numpy_array()
        made.flags.writeable = writable
        return made

    def elides(self, data: NDArray) -> bool:
        """Whether zarr would not store a chunk, because it equals the fill value."""
        return self._chain.elides(self._spec.prototype.nd_buffer.from_numpy_array(data))

    async def read_by_zarr(self, region: Region) -> NDArray:
        """Let zarr read a region with the array's own pipeline and prototype."""
        return np.asarray(await self.array.getitem(region)).reshape([part.stop - part.start for part in region])

    async def write_by_zarr(self, region: Region, data: NDArray) -> None:
        """Let zarr write a region with the array's own pipeline and prototype."""
        await self.array.setitem(region, data)

    def _native(self, data: NDArray) -> NDArray:
        return data if data.dtype == self.dtype else data.astype(self.dtype)

    def _contiguous(self, data: NDArray) -> NDArray:
        return np.ascontiguousarray(data, dtype=self.dtype).reshape(data.shape)

    @property
    def _sharding(self) -> Any:
        return self._pipeline.array_bytes_codec

    def _shard_layout(self) -> ShardLayout | None:
        codec = self._sharding
        alone = not self._pipeline.array_array_codecs and not self._pipeline.bytes_bytes_codecs
        if self.grid.shards is None or not isinstance(codec, ShardingCodec) or not alone:
            return None
        index_spec = codec._get_index_chunk_spec(self.grid.per_shard)
        index = Chain(evolved(codec.index_codecs, index_spec), index_spec, elide=False)
        location = getattr(codec.index_location, "value", codec.index_location)
        nbytes = codec._shard_index_size(self.grid.per_shard)
        return ShardLayout(self.grid.per_shard, nbytes, location == "end", index.decode, index.encode)


def async_array_of(array: object) -> AsyncArray[Any]:
    """Take a zarr array of either face and return the asynchronous one.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(array, zarr.Array):
        return array.async_array
    if isinstance(array, AsyncArray):
        return array
    raise array_expected(array)


def chunk_region(array: AnyArray, index: Index) -> Region:
    """Where a chunk lies in its array.

    Parameters
    ----------
    array : zarr.Array or zarr.AsyncArray
        The array.
    index : tuple of int
        Coordinates in the grid of ``array.chunks``.

    Returns
    -------
    tuple of slice
        Half-open slices in elements, clipped at the array's edge.

    Raises
    ------
    ValueError
        If the array has no such chunk.
    """
    grid = _grid_of(async_array_of(array))
    if len(index) != len(grid.shape) or not all(0 <= at < n for at, n in zip(index, grid.counts, strict=True)):
        raise ValueError(f"chunk {index} is not in the array's chunk grid of {grid.counts} chunks")
    return grid.region_of(index)


def zarr_loop() -> asyncio.AbstractEventLoop:
    """Zarr's own event loop, on which a `zarr.Array` runs its requests."""
    return _get_loop()


def _separator_of(metadata: Any) -> str | None:
    """What separates the numbers of a chunk's key, where the encoding is one of the usual; else None."""
    if metadata.zarr_format == 2:  # noqa: PLR2004  # the separator stands in its own place there
        return str(metadata.dimension_separator)
    encoding = metadata.chunk_key_encoding
    return str(encoding.separator) if type(encoding) is DefaultChunkKeyEncoding else None


def _spec_of(array: AsyncArray[Any], grid: Grid) -> ArraySpec:
    metadata: Any = array.metadata
    config: Any = array.config
    if metadata.zarr_format == 2:  # noqa: PLR2004  # format 2 keeps the order in the metadata, not in the configuration
        config = replace(config, order=metadata.order)
    return ArraySpec(
        shape=grid.shards or grid.chunks,
        dtype=metadata.dtype,
        fill_value=metadata.fill_value,
        config=config,
        prototype=default_buffer_prototype(),
    )


def _named(array: AsyncArray[Any]) -> str:
    """Return an array's name in messages; the one at the root of its store has none of its own."""
    store = array.store_path.store
    return f"array {array.path!r} in {store}" if array.path else f"the array at the root of {store}"


def _grid_of(array: AsyncArray[Any]) -> Grid:
    try:
        chunks, shards = array.chunks, array.shards
    except NotImplementedError as error:
        kind = type(getattr(array.metadata, "chunk_grid", None)).__name__.partition("ChunkGrid")[0].lower()
        raise UnsupportedArrayError(
            f"{_named(array)} has a {kind} chunk grid, whose chunks have several sizes: only regular grids can be "
            "streamed; copy it into an array with one chunk shape, zarr.create_array(store, data=array[...], chunks=…)"
        ) from error
    return Grid(array.shape, chunks, shards, itemsize_of(np.dtype(array.dtype)))
