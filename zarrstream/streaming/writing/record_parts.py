"""The parts of pending chunks that a checkpoint knows to be stored, and what a resized array makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zarrstream.streaming.layout.boxes import Box, within

if TYPE_CHECKING:
    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.writing.record import Parts, State

PART = 3  # in a state while a file is read: pending, and a part of it is stored
_MOST = 4096  # chunks at a grown edge whose parts are followed; of more, the chunks are just pending again


def counts_of(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of chunks along each axis."""
    return tuple(-(-size // step) if step else 0 for size, step in zip(shape, chunks, strict=True))


def index_of(ordinal: int, counts: tuple[int, ...]) -> Index:
    """Return the coordinates of the chunk at a position in C order."""
    index: list[int] = []
    for count in reversed(counts):
        ordinal, at = divmod(ordinal, count)
        index.append(at)
    return tuple(reversed(index))


def ordinal_of(index: Index, counts: tuple[int, ...]) -> int:
    """Return a chunk's position in C order."""
    ordinal = 0
    for at, count in zip(index, counts, strict=True):
        ordinal = ordinal * count + at
    return ordinal


def extent_of(index: Index, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Box:
    """Return the box of a chunk that lies in the array."""
    return tuple((0, min(step, size - at * step)) for at, size, step in zip(index, shape, chunks, strict=True))


def take_parts(text: bytes, state: State, parts: Parts, chunks: tuple[int, ...]) -> bool:
    """Take the content of a line in; return whether it makes sense."""
    for entry in text.split():
        ordinal, _, bounds = entry.partition(b"@")
        at = int(ordinal)
        box = tuple((int(first), int(last)) for first, last in (pair.split(b":") for pair in bounds.split(b",")))
        if at >= len(state) or len(box) != len(chunks) or not within(box, tuple((0, step) for step in chunks)):
            return False
        state[at], parts[at] = PART, box
    return True


def show_part(ordinal: int, box: Box) -> str:
    """Write a part as it stands in a line."""
    return f"{ordinal}@" + ",".join(f"{first}:{last}" for first, last in box)


def told_apart(state: State, parts: Parts) -> tuple[State, Parts]:
    """Return a state without parts, and the parts that later lines have left."""
    left = {ordinal: box for ordinal, box in parts.items() if state[ordinal] == PART}
    state[state == PART] = 0
    return state, left


def moved(
    state: State, parts: Parts, old: tuple[int, ...], new: tuple[int, ...], chunks: tuple[int, ...]
) -> tuple[State, Parts]:
    """Bring what is done into the grid of a resized array.

    A chunk that now reaches further is pending again, but for the part that it had.
    """
    if old == new:
        return state, parts
    before, after = counts_of(old, chunks), counts_of(new, chunks)
    grid = np.zeros(after, np.uint8)
    common = tuple(slice(0, min(pair)) for pair in zip(before, after, strict=True))
    grid[common] = state.reshape(before)[common]
    kept = {index_of(at, before): box for at, box in parts.items() if at < state.size and state[at] == PART}
    for axis, (was, size, step) in enumerate(zip(old, new, chunks, strict=True)):
        if size > was and step and was % step:
            row = np.moveaxis(grid, axis, 0)[was // step : was // step + 1]
            if row.size <= _MOST:
                for _, *place in np.argwhere((row != 0) & (row != PART)).tolist():
                    index = (*place[:axis], was // step, *place[axis:])
                    kept[index] = extent_of(index, old, chunks)
            row[...] = 0
    moved_parts: Parts = {}
    for index, box in kept.items():
        inside = all(at < count for at, count in zip(index, after, strict=True))
        if inside and grid[index] in (0, PART) and within(box, extent_of(index, new, chunks)):
            grid[index] = PART
            moved_parts[ordinal_of(index, after)] = box
        elif inside and grid[index] == PART:
            grid[index] = 0
    return grid.reshape(-1), moved_parts
