"""One mapping's share in the environment of its folder: how a call gets its transaction, and insists."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from zarrstream.mappings.lmdb.environment import Durability, Environment, Error, ReadersFullError, environment_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream.mappings.lmdb.environment import Transaction
    from zarrstream.mappings.lmdb.folder import Folder

T = TypeVar("T")
#: For how long a value may be read from what is open before the place is looked at again.
_TRUSTED_SECONDS = 0.01
_NOTHING = nullcontext()


class Share:
    """One mapping's share in an environment.

    Parameters
    ----------
    folder : Folder
        Where the environment lies.
    durability : {"full", "normal", "off"}
        What a write waits for. Among several shares, the strictest holds.
    map_size : int
        How many bytes are mapped at first.
    seen : bool
        Whether the database has been there: if so, its absence is an error, not emptiness.
    """

    def __init__(self, folder: Folder, *, durability: Durability, map_size: int, seen: bool) -> None:
        self.environment: Environment = environment_in(folder)
        self.durability = durability
        self.map_size = map_size
        self.seen = seen
        self._joined = False
        self._due = 0.0

    def get(self, name: bytes) -> bytes | None:
        """Return what is stored under a name, from what is open; None where a look at the place has to decide."""
        environment = self.environment
        try:
            with environment.get().lock:
                handle = environment.handle
                if handle is None or not self._joined:
                    return None
                now = time.monotonic()
                if now >= self._due:
                    if not environment.is_current():
                        return None
                    self._due = now + _TRUSTED_SECONDS
                transaction = handle.begin()
                try:
                    return transaction.get(name)
                finally:
                    transaction.abort()
        except Error:
            return None  # the slow way sees to it

    def call(
        self, work: Callable[[Transaction[memoryview]], T], *, write: bool = False, create: bool = False
    ) -> T | None:
        """Run ``work`` in one transaction; None where there is no database, and none is to be made.

        What ``work`` is given ends with it: it copies whatever it returns.

        Parameters
        ----------
        work : callable
            From a transaction, whose keys and values are views into the map, to a result. May be called again.
        write : bool, optional
            Whether the transaction writes.
        create : bool, optional
            Whether to make a database that is not there.
        """
        environment = self.environment
        attempt = 0
        while True:
            handle, map_size = None, 0
            try:
                # The turn first: who waits for it must hold nothing that a fork in its holder's signal handler wants.
                with environment.turn if write else _NOTHING, environment.get().lock:
                    if self._joined and environment.is_current():
                        handle, map_size = environment.handle, environment.map_size
                    if handle is not None:
                        return _run(handle.begin(write=write, buffers=True), work, write=write)
            except Error as error:
                environment.mend(error, handle, map_size, attempt)
                attempt += 1
                if isinstance(error, ReadersFullError):
                    time.sleep(0.002)
            if handle is None and not self.join(create=create):
                return None

    def close(self) -> None:
        """Leave the environment, which the last user closes, and forget what was seen."""
        with self.environment.alone():
            self._joined = self.seen = False
            self.environment.leave(self)

    def join(self, *, create: bool) -> bool:
        """Use the environment from now on; return whether there is one, or one was made."""
        environment = self.environment
        with environment.alone():
            self._joined = True
            environment.users.add(self)
            found = environment.connect(self, create=create)
            self.seen |= found
            return found


def _run(transaction: Transaction[memoryview], work: Callable[[Transaction[memoryview]], T], *, write: bool) -> T:
    try:
        result = work(transaction)
    except BaseException:
        transaction.abort()
        raise
    if write:
        transaction.commit()
    else:
        transaction.abort()
    return result
