"""A chunk that cannot be written is always told: written, failed and skipped are all that was pulled."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from tests.streaming.spies import AsyncSpy, Spy
from zarrstream import Checkpoint, MappingStore, aio, open_store, write_stream
from zarrstream.errors import ChunkWriteError
from zarrstream.faults.script import Fault
from zarrstream.streaming.codecs.chain import Chain
from zarrstream.streaming.engine.job import Job
from zarrstream.streaming.writing.store import Saver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from zarr.abc.store import Store

    from zarrstream import WriteReport
    from zarrstream.errors import ChunkError

BAD = 1313
COUNT = 24
STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "awaited": lambda _: AsyncSpy(),
    "dict": lambda _: MappingStore({}),
    "local": lambda folder: LocalStore(folder / "a"),
    "sqlite": lambda folder: open_store(f"sqlite:///{folder}/x.db"),
    "zip": lambda folder: open_store(f"zip:///{folder}/x.zip"),
}


def array_in(store: Store, *, sharded: bool) -> zarr.Array:
    """Make the target: 24 chunks of two values, in shards of eight chunks or not."""
    shards = (16,) if sharded else None
    return zarr.create_array(store, shape=(2 * COUNT,), chunks=(2,), shards=shards, dtype="i4", fill_value=-1)


def source(bad: int) -> Iterator[tuple[tuple[int], np.ndarray]]:
    """Yield all chunks, one of which is the bad one."""
    for at in range(COUNT):
        yield (at,), np.full(2, BAD if at == bad else at, "i4")


@pytest.fixture(params=[ValueError, MemoryError], ids=["codec", "allocation"])
def _encoder_fails(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the bad chunk fail in the codec, or for want of memory."""
    encode, encode_all = Chain.encode, Chain.encode_all

    def refuse(data: Any) -> None:
        if BAD in data:
            raise request.param("it cannot be encoded")

    def one(self: Chain, data: Any) -> Any:
        refuse(data)
        return encode(self, data)

    def many(self: Chain, run: list[Any]) -> Any:
        for data in run:
            refuse(data)
        return encode_all(self, run)

    monkeypatch.setattr(Chain, "encode", one)
    monkeypatch.setattr(Chain, "encode_all", many)


async def written(face: str, array: zarr.Array, items: Any, **options: Any) -> WriteReport:
    """Write through one of the faces."""
    if face == "aio":
        return await aio.write_stream(array, items, **options)
    return write_stream(array, items, **options)


every_kind = pytest.mark.parametrize("kind", STORES)
every_face = pytest.mark.parametrize("face", ["blocking", "aio"])
every_layout = pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
every_position = pytest.mark.parametrize("bad", [0, 11, COUNT - 1])
every_concurrency = pytest.mark.parametrize("concurrency", [1, 8])


@every_position
@every_concurrency
@every_layout
@every_face
@every_kind
@pytest.mark.usefixtures("_encoder_fails")
async def test_a_chunk_that_cannot_be_encoded_ends_the_stream(
    kind: str, face: str, sharded: bool, concurrency: int, bad: int, tmp_path: Path
) -> None:
    """An error names the chunk, and nothing else is stored in its place."""
    store = STORES[kind](tmp_path)
    array = array_in(store, sharded=sharded)
    with pytest.raises(ChunkWriteError, match="it cannot be encoded") as caught:
        await written(face, array, source(bad), concurrency=concurrency)
    assert caught.value.index == (bad,)
    assert all(value in (-1, at) for at, value in enumerate(array[::2].tolist()))
    assert array[2 * bad] == -1
    store.close()


@every_position
@every_concurrency
@every_layout
@every_face
@every_kind
@pytest.mark.usefixtures("_encoder_fails")
async def test_a_chunk_that_is_skipped_is_the_only_one_missing(
    kind: str, face: str, sharded: bool, concurrency: int, bad: int, tmp_path: Path
) -> None:
    """Its neighbours in the run and in the shard are stored, and what was there for it stays."""
    store = STORES[kind](tmp_path)
    array = array_in(store, sharded=sharded)
    array[...] = 77
    report = await written(face, array, source(bad), concurrency=concurrency, on_error="skip")
    assert (report.written, report.failed, [error.index for error in report.errors]) == (COUNT - 1, 1, [(bad,)])
    assert array[::2].tolist() == [77 if at == bad else at for at in range(COUNT)]
    store.close()


class Refusing(Spy):
    """A store, synchronous, that does not take one key, so many times."""

    times = 0
    refused = "c/1"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hook = self.refuse
        self.has_refused = threading.Event()

    def refuse(self, operation: str, key: str) -> None:
        if operation == "set" and key == self.refused and self.times:
            self.times -= 1
            self.has_refused.set()
            raise ConnectionError("one hiccup")


class AwaitedRefusing(AsyncSpy):
    """The same, awaited."""

    times = 0
    refused = "c/1"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hook = self.refuse

    async def refuse(self, operation: str, key: str) -> None:
        if operation == "set" and key == self.refused and self.times:
            self.times -= 1
            raise ConnectionError("one hiccup")


@pytest.mark.parametrize("policy", ["raise", "skip", "retry"])
@every_concurrency
@every_layout
@every_face
@pytest.mark.parametrize("kind", [Refusing, AwaitedRefusing])
async def test_a_key_that_the_store_refuses_is_told(
    kind: Any, face: str, sharded: bool, concurrency: int, policy: str
) -> None:
    """Each chunk of the refused key is failed or raised; a retry asks once and moves the shard once more."""
    store = kind()
    array = array_in(store, sharded=sharded)
    store.times = 1 if policy == "retry" else 1000
    blamed = list(range(8, 16)) if sharded else [1]
    asked: list[ChunkError] = []

    def again(error: ChunkError) -> str:
        asked.append(error)
        return "retry"

    items = [((slice(0, 2 * COUNT),), np.arange(2 * COUNT, dtype="i4") // 2)]
    options: dict[str, Any] = {"concurrency": concurrency, "on_error": again if policy == "retry" else policy}
    if policy == "raise":
        with pytest.raises(ChunkWriteError, match="one hiccup") as caught:
            await written(face, array, items, **options)
        assert caught.value.index[0] in blamed
        return
    report = await written(face, array, items, **options)
    assert report.written + report.failed == COUNT
    failed = [] if policy == "retry" else blamed
    assert [error.index[0] for error in report.errors] == failed
    assert array[::2].tolist() == [-1 if at in failed else at for at in range(COUNT)]
    if policy == "retry":
        assert len(asked) == 1
        assert store.seen("set")["c/1"] == 2


@every_layout
@every_face
async def test_what_a_checkpoint_has_is_what_is_stored(face: str, sharded: bool, tmp_path: Path) -> None:
    """After an error the record has the stored chunks and no other, so that the next run writes the rest."""
    store = open_store(f"faulty+sqlite:///{tmp_path}/x.db", faults=[Fault(kind="error", operation="set", key="c/1")])
    array = array_in(store, sharded=sharded)
    checkpoint = Checkpoint(tmp_path / "done")
    with pytest.raises(ChunkWriteError):
        await written(face, array, source(-1), checkpoint=checkpoint)
    done = {index[0] for index in np.ndindex(COUNT)} - {index[0] for index in checkpoint.pending(array)}
    assert done == {at for at, value in enumerate(array[::2].tolist()) if value == at}
    store.close()
    whole = open_store(f"sqlite:///{tmp_path}/x.db")
    again = zarr.open_array(whole, mode="r+")
    assert write_stream(again, source(-1), checkpoint=Checkpoint(tmp_path / "done")).written == COUNT - len(done)
    assert again[::2].tolist() == list(range(COUNT))
    whole.close()


async def test_what_fails_while_the_source_ends_is_told() -> None:
    """An awaited source that says nothing for a while, and then that it is over: what failed meanwhile is counted."""
    store = Refusing()
    array = array_in(store, sharded=True)
    store.times = 1000

    async def silent() -> AsyncIterator[Any]:
        for item in source(-1):
            yield item
        await asyncio.to_thread(store.has_refused.wait, 30)
        await asyncio.sleep(0.02)  # more or less, the result is the same: it only has to be possible

    report = await aio.write_stream(array, silent(), on_error="skip")
    assert (report.written, report.failed) == (COUNT - 8, 8)


def test_a_pass_that_loses_a_chunk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a chunk ever be dropped on the way, the stream says so and does not end as if all were well."""
    monkeypatch.setattr(Job, "fail", lambda job, _: job.halt.failed(job))
    monkeypatch.setattr(Saver, "_work", lambda *_: 1 / 0)
    array = array_in(MemoryStore(), sharded=False)
    with pytest.raises(ChunkWriteError, match="24 chunks were pulled"):
        write_stream(array, source(-1))
