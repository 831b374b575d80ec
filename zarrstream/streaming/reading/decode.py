"""What was fetched, decoded and cut to the region: from a run's bytes to its chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from zarrstream.streaming.chunk import Chunk
from zarrstream.streaming.engine.job import Failure, Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.codecs.direct import PlainChain

MISSING: Final = object()  # the result of a chunk that is not stored and not wanted


class Decoder:
    """Makes the chunks of one stream.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    region : tuple of slice
        What is wanted of it; chunks are clipped to it.
    include_missing : bool
        Whether absent chunks come as fill values, or not at all.
    writable : bool
        Whether the data are copies that may be changed.
    """

    def __init__(self, codec: ArrayCodec, region: Region, *, include_missing: bool, writable: bool) -> None:
        self._codec, self._region = codec, region
        self._include_missing, self._writable = include_missing, writable
        self._shape = codec.grid.chunks
        self._inside = [
            (-(-part.start // step), part.stop // step) for part, step in zip(region, self._shape, strict=True)
        ]
        self._clips = self._inside != codec.grid.covering(region)

    def decode(
        self, job: Job, indices: list[Index], raws: list[Any], decode: Callable[[Any], Any], spent: list[float]
    ) -> None:
        """Add to a job's results.

        Parameters
        ----------
        job : Job
            The job; its clock runs for each chunk in turn.
        indices : list of tuple of int
            The chunks.
        raws : list
            Their bytes; None for one that is absent, a `Failure` for one that could not be fetched. As many, or fewer.
        decode : callable
            From a chunk's bytes to its values.
        spent : list of float
            The seconds that fetching each of them took.
        """
        results, first = job.results, len(job.results)
        if (chunks := self._at_once(indices, raws)) is not None:
            results.extend(chunks)
            return
        for position, (index, raw) in enumerate(zip(indices, raws, strict=False)):
            if job.halted:
                return
            if type(raw) is Failure:
                result: Any = raw
            elif raw is None:
                result = self._absent(index)
            else:
                job.timing(first + position, first + position + 1, spent[position])
                try:
                    result = self._chunk(index, decode(raw))
                except Exception as error:  # noqa: BLE001  # it belongs to the chunk, and goes to the consumer
                    result = Failure(error)
            results.append(result)
            if type(result) is Failure:
                job.halt.failed(job)
                if job.halt.fails_fast:
                    return

    def _at_once(self, indices: list[Index], raws: list[Any]) -> list[Chunk] | None:
        """Decode a run of plain chunks that are all there; None where it has to be done one by one.

        All are unpacked, then all are made into chunks: two threads that take the interpreter lock from each other at
        every chunk wait more than they work.
        """
        plain = self._codec.plain
        if plain is None or len(raws) != len(indices) or any(raw is None or type(raw) is Failure for raw in raws):
            return None
        try:
            unpacked = plain.unpack_all(raws)
            if self._clips or self._writable:
                return [self._chunk(index, plain.array(raw)) for index, raw in zip(indices, unpacked, strict=True)]
            return self._whole_chunks(indices, unpacked, plain)
        except Exception:  # noqa: BLE001  # done one by one, the chunk that is to blame is found and named
            return None

    def _whole_chunks(self, indices: list[Index], unpacked: list[Any], plain: PlainChain) -> list[Chunk]:
        """Make read-only chunks that nothing clips; while this runs no other thread has the interpreter lock."""
        found, steps, make, new = [], self._shape, plain.array, tuple.__new__
        for index, raw in zip(indices, unpacked, strict=True):
            data = make(raw)
            if type(raw) is not bytes:  # what lies in bytes is read-only by itself
                data.flags.writeable = False
            region = tuple([slice(at * n, at * n + n) for at, n in zip(index, steps)])  # noqa: B905  # as above
            found.append(new(Chunk, (index, region, data)))
        return found

    def _chunk(self, index: Index, whole: Any) -> Chunk:
        if self._is_inside(index):
            data = whole.copy() if self._writable else whole
            if not self._writable and data.flags.writeable:
                data = data.view()
                data.flags.writeable = False
            return Chunk(index, tuple([slice(at * n, at * n + n) for at, n in zip(index, self._shape)]), data)  # noqa: B905  # one of the few lines that run for every chunk
        region = self._codec.grid.region_of(index, self._region)
        inside = tuple(
            slice(part.start - at * step, part.stop - at * step)
            for part, at, step in zip(region, index, self._codec.grid.chunks, strict=True)
        )
        data = whole[inside] if inside else whole.reshape(())[...]
        if self._writable:
            data = data.copy()
        elif data.flags.writeable:
            data.flags.writeable = False
        return Chunk(index, region, data)

    def _is_inside(self, index: Index) -> bool:
        """Whether neither the array's edge nor the region clips a chunk."""
        for at, (first, last) in zip(index, self._inside, strict=False):  # as long as each other
            if not first <= at < last:
                return False
        return bool(index)

    def _absent(self, index: Index) -> Any:
        return self._chunk(index, self._codec.fill) if self._include_missing else MISSING
