"""A client ends with its event loop, however that ends, and with the program, which then says nothing of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import zarr

from tests.clouds import CloudBucket, every_cloud
from tests.fault_proxy import HANG, FaultProxy
from tests.optional import require
from tests.values import buffer
from zarrstream.stores.buckets import clients
from zarrstream.stores.buckets.clients import Clients

require("tenacity")


class Client:
    """Notes on which loop it was closed."""

    closed_on: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        self.closed_on = asyncio.get_running_loop()


@pytest.fixture
def known() -> Clients[Client]:
    return Clients(Client)


def test_a_loop_that_is_closed_by_hand_closes_its_client_first(known: Clients[Client]) -> None:
    """On that loop, and nothing keeps the two."""
    before = set(clients._open)
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(known.get())
    assert loop.run_until_complete(known.get()) is client
    loop.close()
    assert client.closed_on is loop
    assert loop.is_closed()
    assert known.held_by(loop) is None
    assert clients._open == before
    loop.close()


def test_a_loop_that_is_closed_on_another_ones_thread_closes_its_client(known: Clients[Client]) -> None:
    """A thread runs one loop at a time: another thread does it."""
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(known.get())

    async def work() -> None:
        loop.close()

    asyncio.run(work())
    assert client.closed_on is loop


def test_a_client_that_does_not_close_keeps_no_loop_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the loop is closed without it."""
    monkeypatch.setattr(clients, "_PATIENCE", 0.01)

    class Stuck(Client):
        async def close(self) -> None:
            await asyncio.get_running_loop().create_future()

    known = Clients(Stuck)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(known.get())
    loop.close()
    assert loop.is_closed()


def test_a_loop_that_runs_is_closed_as_asyncio_has_it(known: Clients[Client]) -> None:
    """It is refused, and the client stays."""

    async def work() -> None:
        client = await known.get()
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            asyncio.get_running_loop().close()
        assert client.closed_on is None
        assert await known.get() is client

    asyncio.run(work())


@every_cloud
def test_loops_closed_by_hand_leave_no_connection(bucket: CloudBucket) -> None:
    """As libraries did before there was `asyncio.run`; the leak checks count the descriptors."""
    before = len(clients._open)
    store: Any = bucket.open()
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.set("k", buffer(b"1")))
        loop.close()
    assert len(clients._open) == before


@pytest.mark.parametrize(("used_by", "moments"), [([], 0), ([os.getpid()], 1), ([-1], 0)])
def test_threads_of_obstore_have_the_interpreter_once_more(
    used_by: list[int], moments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this process has some: one that asks for it when Python has ended aborts the process, on Python 3.11."""
    require("obstore")
    from zarrstream.stores.buckets import obstore as bucket_obstore

    class Counted:
        slept = 0

        def sleep(self, seconds: float) -> None:
            assert 0 < seconds < 0.1
            self.slept += 1

    monkeypatch.setattr(bucket_obstore, "_started", used_by)
    monkeypatch.setattr(bucket_obstore, "time", counted := Counted())
    assert bucket_obstore._let_threads_end in clients._afterwards
    bucket_obstore._let_threads_end()
    assert counted.slept == moments


PROGRAM = """
import json, sys, zarr
from zarrstream import ChunkReadError, open_store, stream_chunks
url, options = json.loads(sys.argv[1])
array = zarr.open_array(open_store(url, **options), path="t", mode="r")
try:
    if sys.argv[2] == "held":
        held = iter(stream_chunks(array))
        print(type(next(held)).__name__)
    elif sys.argv[2] == "zarr":
        array[:]
    else:
        list(stream_chunks(array))
except Exception as error:
    print(type(error).__name__)
"""


@every_cloud
@pytest.mark.parametrize("face", ["zarr", "streams", "held"])
def test_a_program_that_ends_amid_its_requests_says_nothing_of_them(bucket: CloudBucket, face: str) -> None:
    """After one chunk has failed, or with an iterator that is held, what is on its way is cancelled without a word."""
    with FaultProxy(bucket.port) as proxy:
        decide = proxy.decide

        def fail_one_and_hold_the_others(method: str, path: str) -> Any:
            decided, (name, _, _) = decide(method, path), path.replace("%2F", "/").partition("?")
            if name.endswith("/c/0"):
                return decided if face == "held" else "403 AccessDenied"
            return HANG if "/c/" in name else decided

        store: Any = bucket.open("exit")
        array = zarr.create_array(store, name="t", shape=(32,), chunks=(2,), dtype="i4", overwrite=True)
        array[:] = np.arange(32)
        store.close()
        proxy.decide = fail_one_and_hold_the_others  # type: ignore[method-assign]
        given = json.dumps([bucket.row.url(bucket.name, "exit"), bucket.row.options(proxy.port)])
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, given, face], capture_output=True, text=True, timeout=60, check=False
        )
    said = {"zarr": "StoreAccessError", "streams": "ChunkReadError", "held": "Chunk"}[face]
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, [said], "")
