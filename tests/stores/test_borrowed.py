"""Bytes that a store was lent: after a call was cancelled, nothing reads them any more."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.core.buffer import cpu

from tests.backends import Row, every_row, opened
from zarrstream import MappingStore, open_store
from zarrstream.stores.buffers import owned

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MutableMapping[str, bytes]]:
    yield from opened(row, tmp_path, request)


@every_row
@pytest.mark.parametrize("verb", ["set", "set_if_not_exists", "_set_many"])
async def test_a_cancelled_write_has_a_copy(mapping: MutableMapping[str, bytes], verb: str) -> None:
    """The thread of a write that was given up writes what was lent, whatever the caller has put there since."""
    store: Any = MappingStore(mapping)
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    real = store._bytes

    class Held:
        """Holds each write until it is let go on."""

        never_blocks = real.never_blocks

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __setitem__(self, key: str, value: Any) -> None:
            self._when_let(real.__setitem__, key, value)

        def setdefault(self, key: str, value: Any) -> None:
            self._when_let(real.setdefault, key, value)

        def update_many(self, items: Any) -> None:
            self._when_let(real.update_many, items)

        def _when_let(self, write: Any, *arguments: Any) -> None:
            began.set()
            if not self.never_blocks:
                go_on.wait(30)
            write(*arguments)
            ended.set()

    store._bytes = Held()
    scratch = np.full(8, 1, "u1")
    lent = cpu.Buffer.from_array_like(scratch)
    call = store._set_many([("k", lent)]) if verb == "_set_many" else getattr(store, verb)("k", lent)
    task = asyncio.create_task(call)
    await asyncio.to_thread(began.wait, 30)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    scratch[:] = 9
    go_on.set()
    await asyncio.to_thread(ended.wait, 30)
    store._bytes = real
    assert bytes(mapping["k"]) == bytes([1] * 8)


@pytest.mark.parametrize("wrapper", [{"max_concurrency": 4}, {"trace": True}, {"cache": "sqlite"}])
async def test_wrappers_lend_no_longer(tmp_path: Path, wrapper: dict[str, Any]) -> None:
    """The same through each of them."""
    options = {"cache": f"sqlite:///{tmp_path}/cache.db"} if "cache" in wrapper else wrapper
    store: Any = open_store(f"sqlite:///{tmp_path}/x.db", **options)
    plain: Any = open_store(f"sqlite:///{tmp_path}/x.db")
    plain.set_sync("k", cpu.Buffer.from_bytes(b"old"))
    inner = store
    while not isinstance(inner, MappingStore):
        inner = inner._store
    turn = inner.mapping._file._turn
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            held.set()
            let_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    arrived, take = threading.Event(), inner.mapping._file._take_turn

    def arrive() -> None:
        arrived.set()
        take()

    inner.mapping._file._take_turn = arrive
    scratch = np.full(8, 1, "u1")
    task = asyncio.create_task(store.set("k", cpu.Buffer.from_array_like(scratch)))
    await asyncio.to_thread(arrived.wait, 30)
    task.cancel()
    scratch[:] = 9
    let_go.set()
    with suppress(asyncio.CancelledError):
        await task
    await asyncio.to_thread(holder.join)
    with turn:
        found = plain.get_sync("k").to_bytes()
    assert found in {b"old", bytes([1] * 8)}
    store.close()
    plain.close()


def test_bytes_are_not_copied() -> None:
    """Nobody can change them."""
    value = cpu.Buffer.from_bytes(b"abc")
    assert owned(value) is value
    assert owned(cpu.Buffer.from_array_like(np.zeros(3, "u1"))) is not value
