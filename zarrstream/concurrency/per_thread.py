"""One connection per thread, none carried through a fork, none outliving its thread."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class Closable(Protocol):
    """What a link can hold: a connection that closes."""

    def close(self) -> None:
        """Release what is held."""


C = TypeVar("C", bound=Closable)


# In garbage that holds link and connection Python may end the connection first, which says that nobody closed it
# (sqlite3 does from Python 3.13 on). What is in here is no garbage: its link closes it.
_open: set[Any] = set()


class Link(Generic[C]):
    """One thread's connection, under the lock that its thread holds for as long as it works.

    Attributes
    ----------
    lock : threading.RLock
        Held by the owner around every call, and by whoever closes the connection from elsewhere.
    connection : Closable or None
        None until the first use, and again after `close`.
    identity : tuple of int
        What was at the path when the connection was made: the back end compares it with what is there now.
    log : tuple of int
        What was beside the path when the connection was made, where a back end keeps a log there.
    calls : int
        How many calls of the thread are under way: more than one where a signal handler calls in the midst of one.
    writable : bool
        Whether the connection has been prepared for writing.
    trusted_until : float
        Until when, by ``time.monotonic``, the back end may read from the connection without a look at the path.
    """

    __slots__ = ("__weakref__", "calls", "connection", "identity", "lock", "log", "trusted_until", "writable")

    def __init__(self) -> None:
        # Re-entrant: a signal handler may fork or close in the midst of a call of its own thread.
        self.lock = threading.RLock()
        self.connection: C | None = None
        self.identity: tuple[int, ...] = ()
        self.log: tuple[int, ...] = ()
        self.calls = 0
        self.writable = False
        self.trusted_until = 0.0

    def close(self) -> None:
        """Close the connection, if there is one. The caller holds the lock."""
        connection, self.connection, self.writable, self.trusted_until = self.connection, None, False, 0.0
        if connection is not None:
            connection.close()
            _open.discard(connection)

    def keep(self, connection: C) -> None:
        """Take a connection over, until `close`. The caller holds the lock."""
        self.connection = connection
        _open.add(connection)

    def __del__(self) -> None:
        # The thread has ended, or the mapping is gone: nobody else can hold the lock.
        self.close()


class _Links(threading.local, Generic[C]):
    """The link of each thread; Python drops a thread's share when the thread ends."""

    link: Link[C] | None = None


class ThreadLinks(Generic[C]):
    """The links of one mapping.

    Notes
    -----
    Before a fork, every link is taken and its connection closed, and the links stay taken until the fork is over: a
    driver's state must not be in the child's memory at all. (SQLite, for one, keeps a process-wide table of the locks
    that it holds on each file. A child that inherits the table believes in locks that it has not, and in a writer
    that will never end.) So a fork waits for the calls that run at that moment.
    """

    def __init__(self) -> None:
        self._local: _Links[C] = _Links()
        self._all: weakref.WeakSet[Link[C]] = weakref.WeakSet()
        self._guard = threading.RLock()
        with _every_guard:
            _every.add(self)

    def get(self) -> Link[C]:
        """Return the link of the calling thread."""
        link = self._local.link
        if link is None:
            link = self._local.link = Link()
            with self._guard:
                self._all.add(link)
        return link

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its present call returns."""
        for link in self.snapshot():
            with link.lock:
                link.close()

    def snapshot(self) -> list[Link[C]]:
        """Return the links that exist now."""
        # Without the guard: who asks may hold a link, and a fork waits for that one with the guard in hand.
        while True:
            with suppress(RuntimeError):  # another thread has added one meanwhile
                return list(self._all)

    def hold(self) -> Iterator[threading.RLock]:
        """Close everything and yield the locks that were taken for it, which the caller releases."""
        self._guard.acquire()
        yield self._guard
        for link in list(self._all):
            link.lock.acquire()
            yield link.lock
            link.close()


_every: weakref.WeakSet[ThreadLinks[Any]] = weakref.WeakSet()
_every_guard = threading.RLock()
_held: list[threading.RLock] = []


def _before_fork() -> None:
    _every_guard.acquire()
    _held.append(_every_guard)
    for links in list(_every):
        for lock in links.hold():
            _held.append(lock)  # noqa: PERF402  # each must be on the list before the next is waited for


def _after_fork() -> None:
    # Parent and child alike: the forking thread holds the locks, and it is the one that the child has.
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
