"""One client per event loop and process: none is carried through a fork, or from one loop to another."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from zarr.core import sync as zarr_sync

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_PATIENCE = 5.0  # seconds that closing may take


class Client(Protocol):
    """What connects, and is closed on the loop where it was made."""

    async def close(self) -> None:
        """Close its connections."""


C = TypeVar("C", bound=Client)


class Clients(Generic[C]):
    """The clients of one store.

    Parameters
    ----------
    make : callable
        Makes one; called on the loop that it is for.

    Notes
    -----
    A client ends with its loop: `asyncio.run` closes the asynchronous generators of its loop before the loop itself,
    and each client is held by one. Where a loop is closed by hand, its ``close`` does the same first.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._made: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[C, AsyncGenerator[None, None]]] = (
            weakref.WeakKeyDictionary()
        )
        _every.add(self)

    async def get(self) -> C:
        """Return the running loop's client."""
        loop = asyncio.get_running_loop()
        if _exiting:
            raise asyncio.CancelledError("Python is about to exit: nothing is asked any more")
        if self._process != os.getpid():
            self._begin_anew()
        found = self._made.get(loop)
        if found is None:
            client = self._make()
            _open.add(client)
            held = self._hold(client, loop)
            await anext(held)  # it never waits: no other task comes between
            with self._guard:
                self._made[loop] = found = (client, held)
            _close_before(loop)
        return found[0]

    def held_by(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None] | None:
        """Return what holds a loop's client; None where it has none."""
        found = self._made.get(loop) if self._process == os.getpid() else None
        return None if found is None else found[1]

    def close(self) -> None:
        """Close the clients of all loops; the next `get` makes new ones."""
        if self._process != os.getpid():
            return
        with self._guard:
            made, self._made = self._made, weakref.WeakKeyDictionary()
        for loop, (_, held) in list(made.items()):
            _close_on(loop, held)

    async def _hold(self, client: C, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with self._guard:
                if loop in self._made and self._made[loop][0] is client:
                    del self._made[loop]
            try:
                await client.close()
            finally:
                _open.discard(client)

    def _begin_anew(self) -> None:
        # What the parent had is kept for good: its end would say good-bye on the parent's connections.
        _inherited.append(self._made)
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._made = weakref.WeakKeyDictionary()


def let_go(system: object) -> None:
    """Take back a file system's orders to close itself, which is done here, and on the right loop.

    adlfs would be kept for good by its own, to close itself at exit on no loop; gcsfs would close itself on whichever
    loop runs when it is collected.
    """
    for order in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # noqa: SLF001  # the only way to them
        if (alive := order.peek()) is not None and alive[0] is system:
            order.detach()


def _close_on(loop: asyncio.AbstractEventLoop, held: AsyncGenerator[None, None]) -> None:
    """Close a client on its loop, and wait for it, unless that is the loop which runs here."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is running:
        _closing.add(task := loop.create_task(held.aclose()))
        task.add_done_callback(_closing.discard)
    elif loop.is_running():
        with suppress(TimeoutError, RuntimeError):  # it stopped meanwhile
            asyncio.run_coroutine_threadsafe(held.aclose(), loop).result(_PATIENCE)


def _close_before(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop that is closed by hand close its clients first: nothing of asyncio's tells of its end."""
    close = loop.close
    if getattr(close, "closes_clients", False):
        return

    def close_clients_and_loop() -> None:
        if not loop.is_closed() and not loop.is_running():
            for clients in list(_every):
                if (held := clients.held_by(loop)) is not None:
                    _finish(loop, held)
        close()

    close_clients_and_loop.closes_clients = True  # type: ignore[attr-defined]
    with suppress(AttributeError):  # a loop of a class that takes none: its clients end at exit
        loop.close = close_clients_and_loop  # type: ignore[method-assign]


def _finish(loop: asyncio.AbstractEventLoop, held: AsyncGenerator[None, None]) -> None:
    """Close a client on a loop that does not run."""

    def run() -> None:
        with suppress(TimeoutError):
            loop.run_until_complete(asyncio.wait_for(held.aclose(), _PATIENCE))

    if asyncio._get_running_loop() is None:  # noqa: SLF001  # the public one raises
        run()
    else:  # a thread runs one loop at a time
        thread = threading.Thread(target=run, name="zarrstream-close")
        thread.start()
        thread.join()


async def _cancel_all() -> None:
    """Cancel what a loop still does, as `asyncio.run` does at its end."""
    mine = asyncio.current_task()
    until = time.monotonic() + _PATIENCE
    while (left := asyncio.all_tasks() - {mine}) and (patience := until - time.monotonic()) > 0:
        for task in left:
            task.cancel()
        done, _ = await asyncio.wait(left, timeout=patience)
        for task in done:
            if not task.cancelled():
                task.exception()  # which nobody is there any more to see


def _close_all() -> None:
    _exiting.append(True)  # what zarr still has under way would connect again, and leave that open
    for loop in zarr_sync.loop:
        if loop is not None and loop.is_running() and any(clients.held_by(loop) for clients in list(_every)):
            # After one chunk has failed zarr leaves the requests for the others running. Their client would be closed
            # under them, and each would say so, on a loop that has nobody to tell.
            with suppress(TimeoutError, RuntimeError):
                asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(_PATIENCE + 1)
    for clients in list(_every):
        clients.close()
    for call in _afterwards:
        call()


def after_clients(call: Callable[[], None]) -> None:
    """Have a function called at exit, when all clients are closed."""
    _afterwards.append(call)


_afterwards: list[Callable[[], None]] = []
_every: weakref.WeakSet[Clients[Any]] = weakref.WeakSet()
# In garbage that holds a client and what would close it, the client might come first, and say that nobody closed it.
# What is in here is no garbage.
_open: set[Client] = set()
_inherited: list[object] = []
_exiting: list[bool] = []
_closing: set[asyncio.Task[None]] = set()  # the loop itself holds no strong reference
# zarr's loop stops at exit as well, but later, being registered earlier: it would leave sessions open.
atexit.register(_close_all)
