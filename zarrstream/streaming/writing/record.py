"""The record of a checkpoint: a file of lines, each bound to all before it, and the set of chunks that they make.

The file is append-only text. Its first line is a JSON object that binds it to one array at one place. Every other line
is a letter, ranges of chunk ordinals in C order and a checksum of the whole file up to it: ``s 0-31 40 *1f2e3d4c``.
``s`` means stored, ``e`` elided, ``p`` pending again. ``m 7@0:16,0:90`` says of a pending chunk that the part of it
between these positions is stored. ``n [48, 90]`` is the array's new shape, whose grid the ordinals of all later lines
count in. A line counts only with its newline: a kill tears off no more than the last one, and the next writer cuts
that away. Lines of format 1 have no checksum.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from zarrstream.errors import CheckpointMismatchError
from zarrstream.streaming.layout.bitmap import Presence
from zarrstream.streaming.writing.record_parts import counts_of, extent_of, index_of, moved, take_parts, told_apart

if TYPE_CHECKING:
    import numpy.typing as npt

    from zarrstream.streaming.chunk import Index
    from zarrstream.streaming.layout.boxes import Box
    from zarrstream.streaming.layout.grid import Grid

State: TypeAlias = "npt.NDArray[np.uint8]"
Parts: TypeAlias = "dict[int, Box]"

FORMAT = 2
MAGIC = "zarrstream-checkpoint"
_START = b'{"zarrstream-checkpoint":'  # how the first line begins, so that a torn one is known for ours
_CODES = {"p": 0, "s": 1, "e": 2}
_SUM = rb" \*[0-9a-f]{8}"
_LINES = re.compile(rb"(?:[sep](?: \d{1,18}(?:-\d{1,18})?)+(?:" + _SUM + rb")?\n)*")
_RARE = re.compile(
    rb"^(?:n (\[[0-9, ]{0,999}\])|m((?: \d{1,18}@\d{1,18}:\d{1,18}(?:,\d{1,18}:\d{1,18})*)+))" + _SUM + rb"\n",
    re.MULTILINE,
)
#: What a kill can leave of a line; NULs are what a power loss can.
_TORN = re.compile(rb"[sepnm]?[ 0-9,\[\]@:-]*(?:\*[0-9a-f]{0,8})?\0*")
_LONG = 64  # chunks of a range that is assigned by itself
_BLOCK = 1 << 14  # ranges that are expanded at once: a million ordinals at most


@dataclass
class Log:
    """The content of a checkpoint's file.

    Attributes
    ----------
    header : dict
        What it is bound to.
    shape, chunks : tuple of int
        The array's, as the last line has them.
    state : numpy.ndarray
        Of each chunk in C order: 0 for pending, 1 for stored, 2 for elided.
    parts : dict
        Of pending chunks, by their ordinals, the part that is stored.
    end : int
        Where the last whole line ends.
    checksum : int
        Of all bytes up to there.
    """

    header: dict[str, Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    state: State
    parts: Parts
    end: int
    checksum: int


def read_log(data: bytes, path: str) -> Log | None:
    """Read a file's content; None where there is not even a whole first line.

    Raises
    ------
    CheckpointMismatchError
        If it is no checkpoint, or is damaged.
    """
    header, newline, _ = data.partition(b"\n")
    if not newline:
        if not (header.startswith(_START) or _START.startswith(header) or not header.strip(b"\0")):
            raise _stranger(path)
        return None
    found, shape, chunks = _header(header, path)
    start, end = len(header) + 1, data.rfind(b"\n") + 1
    if not _TORN.fullmatch(data, end):
        raise _damaged(path, data, end)
    _check_sums(data, start, end, path)
    state: State = np.zeros(math.prod(counts_of(shape, chunks)), np.uint8)
    parts: Parts = {}
    for rare in _RARE.finditer(data, start, end):
        _take(data, start, rare.start(), state, path)
        start = rare.end()
        if rare[1] is None:
            if not take_parts(rare[2], state, parts, chunks):
                raise _damaged(path, data, rare.start())
            continue
        grown = json.loads(rare[1])
        if len(grown) != len(shape):
            raise _damaged(path, data, rare.start())
        state, parts = moved(state, parts, shape, tuple(grown), chunks)
        shape = tuple(grown)
    _take(data, start, end, state, path)
    return Log(found, shape, chunks, *told_apart(state, parts), end, zlib.crc32(memoryview(data)[:end]))


def line(kind: str, content: str, checksum: int) -> tuple[bytes, int]:
    """Return a line that follows a file with this checksum, and the checksum after it."""
    body = f"{kind} {content} ".encode()
    tail = b"*%08x\n" % zlib.crc32(body, checksum)
    return body + tail, zlib.crc32(body + tail, checksum)


class Record:
    """Which chunks are done, compared with a listing of the store.

    Parameters
    ----------
    grid : Grid
        The array's.
    state : numpy.ndarray or None
        As `Log.state`, in this grid; None where nothing is recorded.
    present : Presence or None
        The stored objects; None where the store cannot list. What is not in the store is pending again, and so is an
        elided chunk that is.
    parts : dict, optional
        As `Log.parts`, in this grid.
    """

    def __init__(self, grid: Grid, state: State | None, present: Presence | None, parts: Parts | None = None) -> None:
        self._grid, self._counts = grid, grid.counts
        self.lost = 0
        done = np.zeros(self._counts, bool) if state is None else state.reshape(self._counts) != 0
        self._untold = Presence(grid.objects)
        if present is not None:
            there = present.flags()
            if state is not None:
                wrong = (state.reshape(self._counts) == _CODES["s"]) & ~self._spread(there)
                if grid.shards is None:
                    wrong |= (state.reshape(self._counts) == _CODES["e"]) & there
                self.lost = int(np.count_nonzero(wrong))
                done &= ~wrong
            self._untold = Presence.of(there & ~self._gathered(done))
        self.done = Presence.of(done)
        at = {index_of(ordinal, self._counts): box for ordinal, box in (parts or {}).items()}
        #: Of chunks that are not done, the parts that are stored.
        self.parts = {index: box for index, box in at.items() if present is None or grid.object_of(index) in present}

    def __contains__(self, index: Index) -> bool:
        return index in self.done

    def __len__(self) -> int:
        return len(self.done)

    @property
    def left(self) -> int:
        """The number of chunks that are not done."""
        return math.prod(self._counts) - len(self.done)

    def was_present(self, index: Index) -> bool:
        """Return whether the store held the chunk when the record was read, though the record did not say so.

        Of a shard this is known where none of its chunks was recorded: it was stored, and then the writer was killed.
        """
        return self._grid.object_of(index) in self._untold

    def ordinal(self, index: Index) -> int:
        """A chunk's position in C order."""
        return self._grid.ordinal(index, self._counts)

    def extent(self, index: Index) -> Box:
        """The box of a chunk that lies in the array."""
        return extent_of(index, self._grid.shape, self._grid.chunks)

    def _spread(self, there: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Say of each chunk what is so of its object."""
        for axis, per in enumerate(self._grid.per_shard):
            there = there if per == 1 else np.repeat(there, per, axis)
        return there[tuple(slice(0, count) for count in self._counts)]

    def _gathered(self, done: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Say of each object whether anything is so of its chunks."""
        for axis, per in enumerate(self._grid.per_shard):
            if per != 1 and done.shape[axis]:
                done = np.logical_or.reduceat(done, np.arange(0, done.shape[axis], per), axis)
        return done


def _header(header: bytes, path: str) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    try:
        found = json.loads(header)
        known = found[MAGIC]
        shape, chunks = tuple(found["shape"]), tuple(found["chunks"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _stranger(path) from None
    if known not in {1, FORMAT}:
        raise CheckpointMismatchError(
            f"{path!r} has the format {known!r} of another zarrstream: use that version, or another path"
        )
    if len(shape) != len(chunks) or not all(type(size) is int and size >= 0 for size in (*shape, *chunks)):
        raise _stranger(path)
    return found, shape, chunks


def _stranger(path: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(f"{path!r} is not a checkpoint: choose another path, or remove the file")


def _damaged(path: str, data: bytes, at: int) -> CheckpointMismatchError:
    number = data.count(b"\n", 0, at) + 1
    text = data[at : at + 40].partition(b"\n")[0]
    return CheckpointMismatchError(
        f"line {number} of the checkpoint {path!r} is damaged ({text!r}): what it says cannot be believed. Restore the "
        "file from a copy, or remove it to write every chunk anew"
    )


def _check_sums(data: bytes, start: int, end: int, path: str) -> None:
    """Check the last line's checksum, which is of all that is before it; where it is wrong, look for the first.

    A line without one, of format 1 or written by hand, is covered by those behind it.
    """
    last = data.rfind(b"*", start, end)
    if last < 0:
        return
    if last != end - 10 or zlib.crc32(memoryview(data)[:last]) != _number(data[last + 1 : end - 1]):
        checksum = zlib.crc32(memoryview(data)[:start])
        at = start
        while at < end:
            stop = data.index(b"\n", at) + 1
            star = data.find(b"*", at, stop)
            if star >= 0 and zlib.crc32(memoryview(data)[at:star], checksum) != _number(data[star + 1 : stop - 1]):
                raise _damaged(path, data, at)
            checksum, at = zlib.crc32(memoryview(data)[at:stop], checksum), stop


def _number(digits: bytes) -> int:
    return int(digits, 16) if re.fullmatch(rb"[0-9a-f]{8}", digits) else -1


def _take(data: bytes, start: int, end: int, state: State, path: str) -> None:
    """Apply lines to the state, in their order; a million of them at numpy's pace."""
    match = _LINES.match(data, start, end)
    if match is None or match.end() != end:
        raise _damaged(path, data, start if match is None else match.end())
    if start == end:
        return
    text = np.frombuffer(data, np.uint8)[start:end].copy()
    starts = np.concatenate(([0], np.flatnonzero(text == ord("\n"))[:-1] + 1))
    letters = text[starts].copy()
    text[starts] = ord(" ")
    stars = np.flatnonzero(text == ord("*"))
    text[stars[:, None] + np.arange(9)] = ord(" ")
    dashes = text == ord("-")
    text[dashes] = ord(" ")
    digits = text >= ord("0")
    begins = np.flatnonzero(digits[1:] & ~digits[:-1]) + 1
    values = np.array(text.tobytes().split(), np.int64)
    is_last = dashes[begins - 1]
    first = values[~is_last]
    last = first.copy()
    last[np.append(is_last[1:], False)[~is_last]] = values[is_last]
    of = np.searchsorted(starts, begins[~is_last], "right") - 1
    wrong = np.flatnonzero((last < first) | (last >= len(state)))
    if len(wrong):
        raise _damaged(path, data, start + int(starts[of[wrong[0]]]))
    codes = np.zeros(256, np.uint8)
    for letter, code in _CODES.items():
        codes[ord(letter)] = code
    _assign(state, first, last, codes[letters[of]])


def _assign(state: State, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], codes: State) -> None:
    lengths = last - first + 1
    begin = 0
    for at in (*np.flatnonzero(lengths > _LONG).tolist(), len(first)):
        for low in range(begin, at, _BLOCK):
            part = slice(low, min(low + _BLOCK, at))
            count = lengths[part]
            flat = np.repeat(first[part] - (np.cumsum(count) - count), count) + np.arange(count.sum())
            state[flat] = np.repeat(codes[part], count)  # of several values for one the last is kept
        if at < len(first):
            state[first[at] : last[at] + 1] = codes[at]
        begin = at + 1
