"""The driver: one client per process and server, counted, none carried through a fork. Only this file imports it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pymongo
from bson import ObjectId
from bson.errors import BSONError
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from zarrstream.concurrency.deadline import at_most
from zarrstream.errors import StoreAccessError, StoreCorruptError, StoreError, StoreTimeoutError, raise_alone
from zarrstream.mappings.gridfs.errors import UNSURE, foreign, is_refused, passes, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection as _Collection
    from pymongo.database import Database as _Database

    from zarrstream.mappings.gridfs.url import Address

    Document: TypeAlias = dict[str, Any]
    Collection: TypeAlias = _Collection[Document]
    Database: TypeAlias = _Database[Document]
    Session: TypeAlias = ClientSession

T = TypeVar("T")
DriverError = PyMongoError
new_id = ObjectId
replacement = pymongo.ReplaceOne
_HASTY = WriteConcern(w=1)
_GLANCE = 1.0  # seconds within which a server that is there has answered, or refused, mostly
_LONGEST_SEARCH = 30.0  # seconds that the driver looks for a server, as is its default


class _OptionError(Exception):
    """The driver took the URL for none. What it says may quote a password."""


class _Client:
    """One driver's client, open for as long as somebody counts on it."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.process = os.getpid()
        self.count = 0
        self._made: pymongo.MongoClient[Document] | None = None
        self._answered = False
        self._making = threading.Lock()

    def get(self, where: Address, options: dict[str, Any]) -> pymongo.MongoClient[Document]:
        """Return the client, made by the first who asks."""
        with self._making:
            if self._made is None:
                try:
                    self._made = pymongo.MongoClient(where.url, **options)
                except (
                    PyMongoError,
                    ValueError,
                    TypeError,
                    OSError,
                ) as error:  # a certificate's file is not there, say
                    raise _OptionError(type(error).__name__) from None
            return self._made

    def greet(self, made: pymongo.MongoClient[Document], seconds: float) -> None:
        """Wait for the first answer of a server; where all of them refuse connections, for a moment only.

        One that has answered before is waited for, since it may be started again, or another one take its place.
        """
        end = time.monotonic() + seconds
        while not self._answered:
            try:
                with pymongo.timeout(_GLANCE):
                    made.admin.command("ping", read_preference=ReadPreference.NEAREST)
            except PyMongoError as error:
                if not error.timeout and not isinstance(error, ServerSelectionTimeoutError):
                    return  # what comes next will meet it as well
                servers = made.topology_description.server_descriptions().values()
                if time.monotonic() >= end or all(is_refused(server.error) for server in servers):
                    raise
            else:
                self._answered = True

    def close(self) -> None:
        """End the client and its threads; nobody counts on it any more."""
        if self._made is not None:
            self._made.close()


_clients: dict[tuple[Any, ...], _Client] = {}
# What a fork brought: never used here, and never closed, nor collected, which would say good-bye in the parent's name.
_inherited: list[_Client] = []

# Re-entrant, since a mapping that becomes garbage is counted off at any moment, and by a thread that holds it. Nothing
# slow is done under it, least of all the start of a client's threads, in which garbage is collected as well.
_guard = threading.RLock()


def _after_fork() -> None:
    global _guard  # noqa: PLW0603  # another thread of the parent may have held it
    _guard = threading.RLock()
    _inherited.extend(_clients.values())
    _clients.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _take(key: tuple[Any, ...]) -> _Client:
    with _guard:
        while True:
            client = _clients.get(key)
            if client is None:
                client = _clients[key] = _Client(key)
            client.count += 1
            # Between the look and the count, garbage may have been collected in this thread, which the guard lets in:
            # the last who counted on the client, and closed it.
            if _clients.get(key) is client:
                return client


def _leave(client: _Client) -> None:
    with _guard:
        if client.process != os.getpid():
            return
        client.count -= 1
        last = not client.count
        if last:
            _clients.pop(client.key, None)
    if last:
        # In a context of its own: the driver sets variables of the context, and where a mapping becomes garbage while
        # Python 3.11 sets one (it collects as it allocates), that one would be lost: the time-out of a call, say.
        Context().run(client.close)


class _Share:
    """What a connection holds: at most one client."""

    client: _Client | None = None

    def leave(self) -> None:
        with _guard:
            client, self.client = self.client, None
        if client is not None:
            _leave(client)


class Connection:
    """One mapping's way to its database.

    Parameters
    ----------
    where : Address
        Servers, credentials, database.
    timeout : float or None
        How long one call may take, in seconds, all that it tries included; None: as the URL says.
    place : str
        What messages call it.
    """

    def __init__(self, where: Address, *, timeout: float | None, place: str) -> None:
        self.where = where
        self.timeout = timeout
        self.place = place
        self._options = _options(where, timeout)
        self._transacts: bool | None = None
        self._share = _Share()
        weakref.finalize(self, self._share.leave)

    def close(self) -> None:
        """Give the client up; the last to do so closes it, as soon as running calls return."""
        self._transacts = None
        self._share.leave()

    def transacts(self) -> bool:
        """Return whether the servers have transactions: a replica set or a sharded cluster has, one server has not."""
        if self._transacts is None:
            hello = self.call(lambda database: database.client.admin.command("hello"))
            self._transacts = "setName" in hello or hello.get("msg") == "isdbgrid"
        return self._transacts

    def call(self, work: Callable[[Database], T], *, again: bool = True) -> T:
        """Run ``work``, which may run twice, on the database; the driver's errors become ours.

        Parameters
        ----------
        work : callable
            What to do; done twice, it has to end as if done once.
        again : bool, optional
            Whether to try once more after a connection was lost. (The driver has done so itself, where it knows how.)
        """
        seconds = at_most(self.timeout)
        if seconds is not None and seconds <= 0:  # which the driver takes for "no time-out at all"
            raise StoreTimeoutError(f"the MongoDB store {self.place} was given no time: raise timeout, or the deadline")
        try:
            with pymongo.timeout(seconds), self._borrowed() as shared:
                client = shared.get(self.where, self._options)
                shared.greet(client, _LONGEST_SEARCH if seconds is None else seconds)
                database: Database = client.get_database(self.where.database, read_preference=ReadPreference.PRIMARY)
                try:
                    return work(database)
                except PyMongoError as error:
                    # The driver has sent a commit that was not answered until it was; only the time has ended that.
                    if not again or not passes(error) or error.has_error_label(UNSURE):
                        raise
                return work(database)
        except (PyMongoError, BSONError, _OptionError) as error:
            raised, shown = translated(error, self.place, self.where.secrets)
            raised.__cause__ = error if shown else None
            raise_alone(raised)
        except StoreError:
            raise
        except (OSError, LookupError) as error:  # neither of them may look like an absent key
            raise foreign(error, self.place) from error

    def hasty(self, collection: Collection) -> Collection:
        """Return a collection for steps that a later write makes safe, being behind them in the same journal."""
        return collection if self.transacts() else collection.with_options(write_concern=_HASTY)

    def transaction(self, work: Callable[[Database, Session], T]) -> T:
        """Run ``work`` in a transaction, again where it met another one, and until the outcome is known."""

        def transact(database: Database) -> T:
            with database.client.start_session() as session:
                return session.with_transaction(lambda bound: work(database, bound))

        return self.call(transact)

    def identity(self, collection: str) -> str | None:
        """Return what tells a collection from any other one of its name; None where there is none.

        Raises
        ------
        StoreCorruptError
            It compares names by a collation, to which several keys may be one.
        """
        which = {"name": collection}
        try:
            found = self.call(lambda database: list(database.list_collections(filter=which)))
        except StoreAccessError:
            return "unknown"  # a user may be allowed to read the files and nothing else
        if not found:
            return None
        collation = found[0].get("options", {}).get("collation")
        if collation is not None:
            raise StoreCorruptError(
                f"{self.place} cannot hold keys: the collection {collection!r} was made with a collation (locale "
                f"{collation.get('locale')!r}), by which different keys may be one and are listed in another order: "
                f"choose another bucket, or copy the collection into one that has none"
            )
        return str(found[0].get("info", {}).get("uuid", "there"))

    @contextmanager
    def _borrowed(self) -> Iterator[_Client]:
        """Count on the client for the time of one call, so that `close` elsewhere does not end it."""
        with _guard:
            mine = self._share.client
            if mine is None or mine.process != os.getpid():
                mine = self._share.client = _take((self.where.url, *self._options.items()))
            mine.count += 1
        try:
            yield mine
        finally:
            _leave(mine)


def _options(where: Address, timeout: float | None) -> dict[str, Any]:
    """Return what the URL leaves open: a write is acknowledged when it is safe."""
    options: dict[str, Any] = {}
    if "w" not in where.options:
        options["w"] = "majority"
        if not where.options & {"journal", "j"}:
            options["journal"] = True
    if timeout is not None and "serverselectiontimeoutms" not in where.options:
        options["serverSelectionTimeoutMS"] = int(min(timeout, _LONGEST_SEARCH) * 1000) or 1
    return options
