"""What is measured: one row per kind of work, each with a name that says what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

KIB, MIB = 1 << 10, 1 << 20
CODECS = ("none", "zstd", "blosc")

#: Decoded bytes of a chunk -> how many there are; the second number is for ``--quick``.
COUNTS = {16 * KIB: (4096, 128), 256 * KIB: (512, 16), MIB: (256, 8), 16 * MIB: (16, 2)}
SHARD = 64
SLICES = (1000, 100)
#: Slices of thickness 1 cut bands of chunks that are so thick.
THICKNESS = 50
WIDTH = 128


@dataclass(frozen=True)
class Work:
    """One row: an array of float32, and what is done with it.

    Parameters
    ----------
    verb : {"read", "write", "slice"}
        Slicing reads an array of three dimensions in slices of thickness 1.
    codec : {"none", "zstd", "blosc"}
        How its chunks are compressed.
    nbytes : int
        Decoded bytes of an item: of a chunk, or of a slice.
    count : int
        Items in the array.
    place : {"local", "SQLite", "LMDB", "memory"}
        Where it lies.
    per_shard : int
        Chunks in a shard; 1 is an array without shards.
    """

    verb: str
    codec: str
    nbytes: int
    count: int
    place: str = "local"
    per_shard: int = 1

    @property
    def name(self) -> str:
        """What ``--only`` looks at, and the JSON file's key."""
        if self.verb == "slice":
            return f"slices through chunks of {THICKNESS}, {self.place}"
        place = self.place if self.per_shard == 1 else f"{self.per_shard} to a shard"
        return f"{self.verb} {self.codec} {self.size}, {place}"

    @property
    def size(self) -> str:
        """The decoded bytes of an item, as people say it."""
        return f"{self.nbytes // KIB} KiB" if self.nbytes < MIB else f"{self.nbytes // MIB} MiB"

    @property
    def unit(self) -> str:
        """What is counted."""
        return "slices" if self.verb == "slice" else "chunks"

    @property
    def side(self) -> int:
        """The edge of an item, in elements of four bytes."""
        return math.isqrt(self.nbytes // 4)

    @property
    def step(self) -> int:
        """Items that are stored together: a run covers a multiple of them."""
        return THICKNESS if self.verb == "slice" else self.per_shard

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk, in elements."""
        return (THICKNESS, WIDTH, WIDTH) if self.verb == "slice" else (self.side, self.side)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Shape of a shard, in elements."""
        return None if self.per_shard == 1 else (self.side * self.per_shard, self.side)


def places() -> tuple[str, ...]:
    """Where arrays lie, beside local files: LMDB where its driver is."""
    return ("SQLite", "LMDB", "memory") if find_spec("lmdb") else ("SQLite", "memory")


def every_work(*, quick: bool) -> list[Work]:
    """List the rows, those of the issue's table among them."""
    column = 1 if quick else 0
    counts = {nbytes: pair[column] for nbytes, pair in COUNTS.items()}
    rows = [
        Work(verb, codec, nbytes, count)
        for verb, codec, (nbytes, count) in product(("read", "write"), CODECS, counts.items())
    ]
    rows += [
        Work(verb, "zstd", nbytes, counts[nbytes], place)
        for place, nbytes, verb in product(places(), (16 * KIB, MIB), ("read", "write"))
    ]
    rows += [Work(verb, "zstd", 16 * KIB, counts[16 * KIB], per_shard=SHARD) for verb in ("read", "write")]
    return [*rows, Work("slice", "zstd", (2 * WIDTH) ** 2 * 4, SLICES[column])]
