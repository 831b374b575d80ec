"""A bounded pool of connections without threads of its own; none is carried through a fork.

psycopg_pool connects in threads of its own and keeps to itself why that failed: a wrong password is a time-out there,
after all of the time, and without its code. Those threads do not exist in a forked child either, nor may they be left
behind by a store that nobody closes. What is left to do without them is a stack and a count.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from zarrstream.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream.mappings.postgresql.driver import Connection


class _Share:
    """The connections from one opening to the next `Pool.close`.

    Attributes
    ----------
    room : threading.Semaphore
        One for each connection that may yet be taken.
    idle : deque
        Those that nobody uses; the last one used is the next.
    all : set
        Those that are open.
    """

    def __init__(self, size: int) -> None:
        self.room = threading.Semaphore(size)
        self.idle: deque[Connection] = deque()
        self.all: set[Connection] = set()

    def drop(self, connection: Connection) -> None:
        self.all.discard(connection)
        connection.close()

    def drain(self) -> None:
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread's
                return
            self.drop(connection)


class Pool:
    """The connections of one mapping.

    Parameters
    ----------
    connect : callable
        Makes one.
    size : int
        How many there are at most.
    """

    def __init__(self, connect: Callable[[], Connection], size: int) -> None:
        self._connect = connect
        self.size = size
        self._share = _Share(size)
        with _guard:
            _every.add(self)

    def take(self, timeout: float) -> Connection:
        """Return a connection, for this thread alone until it gives it back.

        Parameters
        ----------
        timeout : float
            How long to wait for one that another thread uses, in seconds.

        Raises
        ------
        StoreTimeoutError
            None was given back in time.
        """
        share = self._share
        if not share.room.acquire(timeout=timeout):
            raise StoreTimeoutError(
                f"none of the {self.size} connections of this store became free within {timeout} s: raise "
                f"max_connections, or keep fewer transactions and snapshots open"
            )
        try:
            return share.idle.pop()
        except IndexError:
            pass
        try:
            connection = self._connect()
        except BaseException:
            share.room.release()
            raise
        connection.share = share
        share.all.add(connection)
        return connection

    def give(self, connection: Connection) -> None:
        """Take a connection back; one that is broken, or in the midst of something, is closed."""
        share: _Share = connection.share
        if share is self._share and connection.is_idle:
            share.idle.append(connection)
            if share is not self._share:  # closed meanwhile
                share.drain()
        else:
            share.drop(connection)
        share.room.release()

    def drain(self) -> None:
        """Close those that nobody uses: the server that they led to has gone."""
        self._share.drain()

    def close(self) -> None:
        """Close all, each as soon as it is given back; the next `take` begins anew."""
        share, self._share = self._share, _Share(self.size)
        share.drain()

    def abandon(self) -> None:
        """In a forked child: let go of all that are the parent's."""
        share, self._share = self._share, _Share(self.size)
        for connection in share.all:
            connection.disown()
        share.idle.clear()

    def __del__(self) -> None:
        share = getattr(self, "_share", None)
        if share is not None:
            share.drain()


_every: weakref.WeakSet[Pool] = weakref.WeakSet()
_guard = threading.RLock()


def _after_fork_in_child() -> None:
    for pool in list(_every):
        pool.abandon()
    _guard.release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)
