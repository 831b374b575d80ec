"""Runs of arrays that zarr itself has to write: with a pipeline, codecs or buffers that are not zarr's default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from zarrstream.streaming.writing.cuts import Cut

if TYPE_CHECKING:
    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.engine.job import Job

    NDArray: TypeAlias = npt.NDArray[Any]


async def save_by_zarr(codec: ArrayCodec, job: Job) -> list[bool]:
    """Write a run; return of each chunk whether it was elided.

    A shard all of whose chunks are given is written at once, everything else chunk by chunk.
    """
    grid = codec.grid
    chunks = [await _merged(codec, index, load) for index, load in zip(job.indices, job.load, strict=True)]
    if grid.shards is not None and len(chunks) == sum(1 for _ in grid.chunks_in(grid.object_of(job.indices[0]))):
        await codec.write_by_zarr(*_whole_object(codec, job.indices, chunks))
    else:
        for index, chunk in zip(job.indices, chunks, strict=True):
            await codec.write_by_zarr(grid.region_of(index), _clipped(chunk, grid.region_of(index)))
    return [codec.elides(chunk) for chunk in chunks]


async def _merged(codec: ArrayCodec, index: Index, load: NDArray | Cut) -> NDArray:
    if not isinstance(load, Cut):
        return load
    region = codec.grid.region_of(index)
    stored = codec.filled(codec.grid.chunks)
    stored[tuple(slice(0, part.stop - part.start) for part in region)] = await codec.read_by_zarr(region)
    return load.onto(stored)


def _whole_object(codec: ArrayCodec, indices: list[Index], chunks: list[NDArray]) -> tuple[Region, NDArray]:
    regions = [codec.grid.region_of(index) for index in indices]
    box = tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*regions, strict=True))
    whole = codec.filled(tuple(part.stop - part.start for part in box))
    for region, chunk in zip(regions, chunks, strict=True):
        inside = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(region, box, strict=True))
        whole[inside] = _clipped(chunk, region)
    return box, whole


def _clipped(chunk: NDArray, region: Region) -> NDArray:
    return chunk[tuple(slice(0, part.stop - part.start) for part in region)]
