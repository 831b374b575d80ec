"""No test leaves a thread, task, descriptor or shared-memory entry behind: a pytest plugin that looks after every test.

What a test leaves is named and fails it. Threads and descriptors that belong to the process, not to the test, stand in
the tables below with their reason. A test that failed is not looked at: its traceback keeps alive what it had open.
"""

from __future__ import annotations

import asyncio
import asyncio.runners
import contextlib
import gc
import os
import re
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

GRACE_SECONDS = 1.0
SOCKET_SECONDS = (
    5.0  # where nothing but sockets is left: a driver's monitors end theirs, late where the machine is busy
)
DESCRIPTORS = Path("/proc/self/fd")
#: libuuid opens it once for each thread that asks for a UUID of the time, as the cloud's clients do, and keeps it open.
UUID_CLOCK = "/var/lib/libuuid/clock.txt"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, never written

#: Threads that live as long as the process, whoever caused them: a pattern of the whole name -> why it may stay.
SERVICE_THREADS = {
    r"zarr_io": "zarr's event loop, started by its first synchronous call and ended at exit",
    r"zarr_pool_\d+": "the worker threads of zarr's loop",
    r"Dask-Offload_\d+": "the one thread in which distributed serializes",
    r"fsspecIO": "fsspec's event loop, the same for its file systems",
    r"asyncio_\d+": "default workers of the two loops above; asyncio.run joins its own",
    r"pymongo_\w+": "pymongo's monitors, which end half a second after close()",
    r"pytest_timeout .*": "pytest-timeout's watchdog, where signals are not to be had",
}

FAILED = pytest.StashKey[bool]()
#: What `asyncio.run` and pytest-asyncio were about to cancel when their loop closed, since the test began.
abandoned_tasks: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Look at the tasks of every loop at the last moment that they can be seen: before its runner cancels them."""
    cancel = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def look_then_cancel(loop: asyncio.AbstractEventLoop) -> None:
        if pending := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.wait(pending, timeout=GRACE_SECONDS))
            abandoned_tasks.extend(_name_task(task) for task in pending if not task.done())
        cancel(loop)

    asyncio.runners._cancel_all_tasks = look_then_cancel  # type: ignore[attr-defined]
    config.add_cleanup(lambda: setattr(asyncio.runners, "_cancel_all_tasks", cancel))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that the test failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves something behind, and name it."""
    before = [look() for look in LOOKS]
    abandoned_tasks.clear()
    yield
    if request.node.stash.get(FAILED, False):
        return
    began = time.monotonic()
    while found := _found_since(before):
        sockets = all(name.startswith("descriptor of socket:") for name in found)
        if time.monotonic() - began > (SOCKET_SECONDS if sockets else GRACE_SECONDS):
            pytest.fail("The test left behind: " + "; ".join(found), pytrace=False)
        gc.collect()
        time.sleep(0.01)


@pytest.fixture
def shm_name() -> str:
    """Give a name for shared memory that says which test process made it."""
    return unique_name()


def unique_name() -> str:
    """Return a name for shared memory that says which test process made it."""
    return f"{_tag()}-{uuid.uuid4().hex[:8]}"


def _found_since(before: list[Counter[Any]]) -> list[str]:
    lists = [_names(look() - old) for look, old in zip(LOOKS, before, strict=True)]
    return [name for names in lists for name in names] + abandoned_tasks


def _names(left: Counter[Any]) -> Iterator[str]:
    for thing in left.elements():
        if isinstance(thing, threading.Thread):
            yield f"thread {thing.name!r}"
        elif isinstance(thing, asyncio.Task):
            yield _name_task(thing)
        else:
            yield thing


def _name_task(task: asyncio.Task[Any]) -> str:
    return f"task {task.get_name()!r} ({getattr(task.get_coro(), '__qualname__', '?')})"


def _look_at_threads() -> Counter[Any]:
    pool = getattr(sys.modules.get("dask.threaded"), "default_pool", None)
    shared = getattr(pool, "_threads", ())  # dask's scheduler keeps one pool of unnamed threads per process
    known = re.compile("|".join(SERVICE_THREADS))
    return Counter(
        thread for thread in threading.enumerate() if thread not in shared and not known.fullmatch(thread.name)
    )


def _look_at_tasks() -> Counter[Any]:
    return Counter(task for loop in _service_loops() if not loop.is_closed() for task in asyncio.all_tasks(loop))


def _look_at_descriptors() -> Counter[Any]:
    own = set(_service_descriptors())
    targets: Counter[Any] = Counter()
    for entry in os.listdir(DESCRIPTORS) if DESCRIPTORS.is_dir() else ():  # noqa: PTH208 - names are all we need, twice a test
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(DESCRIPTORS / entry)  # noqa: PTH115 - the text, not a Path
            if int(entry) not in own and target != UUID_CLOCK:
                targets[f"descriptor of {target}"] += 1
    return targets


def _look_at_shared_memory() -> Counter[Any]:
    """List what this process may have left; beside other test processes, what carries its tag (see `shm_name`)."""
    if not SHARED_MEMORY.is_dir():
        return Counter()
    alone = "PYTEST_XDIST_WORKER" not in os.environ and "TOX_ENV_NAME" not in os.environ
    blocks = [path for path in _within(SHARED_MEMORY) if not path.name.startswith("zarrstream")]
    tables = [table for home in SHARED_MEMORY.glob("zarrstream*") for table in _within(home) or [home]]
    others = re.compile(rf"test-(?!{os.getpid()}-)\d+-")
    return Counter(
        f"shared memory {path}"
        for path in (*blocks, *tables)
        if _tag() in path.name or (alone and not others.match(path.name))
    )


def _within(folder: Path) -> list[Path]:
    """List a folder; another process may remove it meanwhile."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []


def _tag() -> str:
    return f"test-{os.getpid()}"


def _service_loops() -> Iterator[asyncio.BaseEventLoop]:
    """Yield the loops that zarr and fsspec keep for the life of the process."""
    for module in ("zarr.core.sync", "fsspec.asyn"):
        yield from filter(None, getattr(sys.modules.get(module), "loop", ()))


def _service_descriptors() -> Iterable[int]:
    """Yield the descriptors that live as long as the process, whichever test happened to be the first to need them."""
    for loop in _service_loops():
        if not loop.is_closed():
            yield from (loop._selector.fileno(), loop._ssock.fileno(), loop._csock.fileno())  # type: ignore[attr-defined]
    # multiprocessing's two helpers are started once, by the first spawned process or shared block.
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    for owner, name in ((tracker, "_fd"), (server, "_forkserver_alive_fd")):
        if (descriptor := getattr(owner, name, None)) is not None:
            yield descriptor


LOOKS: tuple[Callable[[], Counter[Any]], ...] = (
    _look_at_threads,
    _look_at_tasks,
    _look_at_descriptors,
    _look_at_shared_memory,
)
