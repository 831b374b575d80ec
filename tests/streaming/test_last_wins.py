"""Of all items for a chunk the last one wins: whatever fails, is tried again, ends in the middle and is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.streaming.spies import AsyncSpy, Spy
from zarrstream import Checkpoint, ChunkWriteError, WriteReport, aio, write_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 24  # in chunks of two


class Placed(Spy):
    """A synchronous store that a checkpoint can be bound to."""

    place = "spy://here"


class AwaitedPlaced(AsyncSpy):
    """The same, awaited."""

    place = "spy://there"


def target(store: Any, *, sharded: bool, size: int = SIZE) -> zarr.Array:
    shards = (8,) if sharded else None
    return zarr.create_array(store, shape=(size,), chunks=(2,), shards=shards, dtype="i4", fill_value=0)


def passes(values: list[int], *, broken: bool = False) -> Iterator[Any]:
    """Yield each chunk once for each value; or break off after the first value."""
    for value in values:
        for at in range(SIZE // 2):
            yield (at,), np.full(2, value, "i4")
        if broken:
            raise ConnectionError("the source broke")


async def written(face: str, array: zarr.Array, source: Any, **options: Any) -> WriteReport:
    if face == "aio":
        return await aio.write_stream(array, source, **options)
    return write_stream(array, source, **options)


every_face = pytest.mark.parametrize("face", ["blocking", "aio"])
every_layout = pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
every_store = pytest.mark.parametrize("kind", [Placed, AwaitedPlaced])


@every_face
@every_layout
@every_store
async def test_the_last_item_wins_in_a_resumed_run(kind: type, sharded: bool, face: str, tmp_path: Path) -> None:
    """The first item of a done chunk is skipped; a later one is a correction, and is written."""
    array = target(kind(), sharded=sharded)
    checkpoint = Checkpoint(tmp_path / "done")
    with pytest.raises(ConnectionError):
        await written(face, array, passes([1, 2], broken=True), checkpoint=checkpoint)
    assert list(checkpoint.pending(array)) == []
    report = await written(face, array, passes([1, 2]), checkpoint=checkpoint)
    assert array[...].tolist() == [2] * SIZE
    assert (report.written, report.skipped) == (SIZE // 2, SIZE // 2)
    assert list(checkpoint.pending(array)) == []


@every_face
@every_layout
@every_store
async def test_a_chunk_whose_later_write_fails_is_pending(kind: type, sharded: bool, face: str, tmp_path: Path) -> None:
    """The record is taken back when another write of a recorded chunk begins."""
    array = target(kind(), sharded=sharded)
    checkpoint = Checkpoint(tmp_path / "done")
    await written(face, array, passes([1]), checkpoint=checkpoint)

    def refuse(operation: str, key: str) -> None:
        if operation == "set" and key == "c/1":
            raise OSError("no room")

    async def arefuse(operation: str, key: str) -> None:
        refuse(operation, key)

    array.store.hook = refuse if kind is Placed else arefuse
    report = await written(face, array, passes([1, 2]), checkpoint=checkpoint, on_error="skip")
    lost = range(4, 8) if sharded else [1]
    assert report.failed == len(lost)
    assert [index for (index,) in checkpoint.pending(array)] == list(lost)
    array.store.hook = None
    await written(face, array, passes([1, 2]), checkpoint=checkpoint)
    assert array[...].tolist() == [2] * SIZE


ITEMS = st.lists(
    st.tuples(st.integers(0, SIZE // 2 - 1), st.integers(1, 4), st.integers(0, 5)),  # first chunk, chunks, value
    max_size=14,
)
RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "stop": st.integers(0, 14),  # the source breaks after so many items
            "bad": st.frozensets(st.integers(0, 12), max_size=4),  # these calls of the store's `set` fail
            "policy": st.sampled_from(["raise", "skip", "retry"]),
            "concurrency": st.sampled_from([1, 2, 8]),
            "max_bytes": st.sampled_from([1, 32, 1 << 20]),
        }
    ),
    max_size=3,
)


class History:
    """Runs over one list of regions, one after the other, some of which fail."""

    def __init__(self, array: zarr.Array, regions: list[tuple[int, int, int]], checkpoint: Checkpoint) -> None:
        self.array, self.regions, self.checkpoint = array, regions, checkpoint
        self.calls = self.pulled = 0
        self.bad: frozenset[int] = frozenset()
        array.store.hook = self.arefuse if isinstance(array.store, AwaitedPlaced) else self.refuse

    def refuse(self, operation: str, _: str) -> None:
        if operation == "set":
            self.calls += 1
            if self.calls - 1 in self.bad:
                raise OSError("no room")

    async def arefuse(self, operation: str, key: str) -> None:
        self.refuse(operation, key)

    def source(self, stop: int) -> Iterator[Any]:
        for first, last, value in self.regions[:stop]:
            self.pulled += last - first
            yield (slice(2 * first, 2 * last),), np.full(2 * (last - first), value, "i4")
        if stop < len(self.regions):
            raise ConnectionError("the source broke")

    def run(self, stop: int, bad: frozenset[int], policy: str, **options: Any) -> None:
        self.bad, self.calls, self.pulled = bad, 0, 0
        on_error: Any = (lambda _: "retry") if policy == "retry" else policy
        try:
            report = write_stream(
                self.array, self.source(stop), on_error=on_error, checkpoint=self.checkpoint, **options
            )
        except (ConnectionError, ChunkWriteError):
            return
        assert report.written + report.failed + report.skipped == self.pulled
        assert report.failed == 0 or policy == "skip"


@given(items=ITEMS, runs=RUNS, sharded=st.booleans(), kind=st.sampled_from([Placed, AwaitedPlaced]))
def test_after_any_history_the_last_item_is_there(
    items: list[Any], runs: list[Any], sharded: bool, kind: type, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Overlapping regions, failures, retries and resumes: each report adds up, and a run that ends well has it all."""
    array = target(kind(), sharded=sharded)
    regions = [(first, min(first + length, SIZE // 2), value) for first, length, value in items]
    history = History(array, regions, Checkpoint(tmp_path_factory.mktemp("law") / "done"))
    for run in runs:
        history.run(**run)
    history.run(len(regions), frozenset(), "raise")
    expected = np.zeros(SIZE, "i4")
    for first, last, value in regions:
        expected[2 * first : 2 * last] = value
    assert array[...].tolist() == expected.tolist()
