"""Parts of chunks: gathered in memory while they come, and merged with what is stored where they stay parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from zarrstream.streaming.layout.boxes import Box, bounds_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index, Region
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.writing.frontier import Item

    NDArray: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """A part of a chunk on its way to what is stored of the rest.

    Parameters
    ----------
    data : numpy.ndarray
        A whole chunk; what is not given is of no meaning.
    given : numpy.ndarray of bool
        The positions that are.
    """

    data: NDArray
    given: npt.NDArray[np.bool_]

    def onto(self, stored: NDArray) -> NDArray:
        """Return a chunk that has the given values, and elsewhere those that are stored."""
        merged = np.array(stored)
        np.copyto(merged, self.data, where=self.given)
        return merged


@dataclass
class Piece:
    """One chunk of an item: its stored object, its whole data (edges padded), and what waits for it.

    Parameters
    ----------
    index, obj : tuple of int
        The chunk, and the stored object that holds it.
    data : numpy.ndarray
        A whole chunk.
    nbytes : int
        What the items gave for it, in bytes.
    items : tuple of Item
        Those that are settled with it.
    given : numpy.ndarray of bool, optional
        Where only a part of the chunk is given, the positions that are.
    """

    index: Index
    obj: Index
    data: NDArray
    nbytes: int
    items: tuple[Item, ...]
    given: npt.NDArray[np.bool_] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of the chunk is given."""
        return self.given is None

    @property
    def load(self) -> NDArray | Cut:
        """What the workers are handed."""
        return self.data if self.given is None else Cut(self.data, self.given)

    @property
    def bounds(self) -> Box | None:
        """The smallest box in the chunk that has all of a part in it; None where the chunk is whole."""
        return None if self.given is None else bounds_of(self.given)

    def held(self, chunk_nbytes: int) -> int:
        """Bytes that it takes on its way: a part also has its positions, and is read and decoded to be merged."""
        return chunk_nbytes if self.given is None else 2 * chunk_nbytes + self.given.nbytes

    def replaces(self, earlier: Piece) -> None:
        """Take the place of a piece that was not sent yet: what waits for that one waits for this."""
        self.items = (*earlier.items, *self.items)
        self.nbytes += earlier.nbytes

    def take(self, codec: ArrayCodec, where: Region, values: NDArray, item: Item) -> None:
        """Take a later part of the chunk in.

        Parameters
        ----------
        codec : ArrayCodec
            The target.
        where : tuple of slice
            The part, counted from the chunk's own corner.
        values : numpy.ndarray
            Its values.
        item : Item
            What is settled with it.
        """
        if not self.data.flags.writeable:  # frozen, and another's
            self.data = self.data.copy()
        self.data[where] = values
        self.items = (*self.items, item)
        self.nbytes += values.nbytes
        if self.given is not None:
            self.given[where] = True
            inside = tuple(slice(0, part.stop - part.start) for part in codec.grid.region_of(self.index))
            if self.given[inside].all():
                self.given = None


def part_of(codec: ArrayCodec, index: Index, where: Region, values: NDArray, item: Item) -> Piece:
    """Return a piece of which a part is given; see `Piece.take` for the parameters."""
    data = codec.filled(codec.grid.chunks)
    data[where] = values
    given = np.zeros(codec.grid.chunks, bool)
    given[where] = True
    return Piece(index, codec.grid.object_of(index), data, values.nbytes, (item,), given)
