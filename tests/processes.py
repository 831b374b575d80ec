"""What tests run in other processes: functions that a fresh interpreter can import by name."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream import ByteMapping, MappingStore

METHODS = ("fork", "spawn", "forkserver")


def forked(work: Callable[[], None]) -> int:
    """Start a child that does some work, and return its process id; it is up to the caller to wait for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside zarr's threads
        child = os.fork()
    if not child:
        try:
            work()
        except BaseException:  # noqa: BLE001  # whatever it is, the child ends here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def in_child(work: Callable[[], None]) -> None:
    """Run in a forked child, and fail as it does."""
    assert os.waitpid(forked(work), 0)[1] == 0


def run(method: str, work: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    """Run a function once per tuple of arguments, each in a process of its own, all at once."""
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=work, args=given) for given in arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for process in processes:
            process.start()  # type: ignore[attr-defined]  # every context has it
    for process in processes:
        process.join()  # type: ignore[attr-defined]
    assert [process.exitcode for process in processes] == [0] * len(processes)  # type: ignore[attr-defined]
    for process in processes:
        process.close()  # type: ignore[attr-defined]


def write_keys(mapping: ByteMapping, number: int, count: int) -> None:
    """Write ``count`` keys of this process's own, and read each back."""
    for index in range(count):
        key = f"{number}/{index}"
        mapping[key] = key.encode()
        assert mapping[key] == key.encode()
    mapping.close()


def write_chunks(store: MappingStore, number: int, count: int) -> None:
    """Write ``count`` chunks of the array at the store's root, in a row of their own."""
    array = zarr.open_array(store, mode="r+")
    for index in range(count):
        array[number, index * 4 : index * 4 + 4] = number * count + index + 1
    assert np.all(array[number] == np.repeat(np.arange(count) + number * count + 1, 4))


def use_inherited(store: MappingStore) -> None:
    """Read what the parent wrote, and write beside it."""
    found = store.get_sync("parent")
    assert found is not None
    assert found.to_bytes() == b"from the parent"
    store.set_sync("child", found)


def move_amounts(store: MappingStore, number: int, seconds: float, moved: Any) -> None:
    """Move amounts between the chunks of the array at the store's root, for so long; tell how many times."""
    random, end, count = np.random.default_rng(number), time.monotonic() + seconds, 0

    def move(transaction: MappingStore) -> None:
        array = zarr.open_array(transaction, mode="r+")
        giver, taker = random.choice(array.shape[0], 2, replace=False)
        amount = int(random.integers(1, 100))
        array[giver] = array[giver] - amount
        array[taker] = array[taker] + amount

    while time.monotonic() < end:
        store.in_transaction(move, attempts=1000)
        count += 1
    moved.put(count)
    store.close()
