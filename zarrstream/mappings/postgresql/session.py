"""How a call reaches the server: on which connection, how long it insists, and when the table is made."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from zarrstream.concurrency.deadline import at_most
from zarrstream.errors import StoreError
from zarrstream.mappings.postgresql import statements as sql
from zarrstream.mappings.postgresql.driver import Connection, Database, Error, Overdue
from zarrstream.mappings.postgresql.errors import NO_TABLE, code, foreign, is_conflict, passes, translated, unsure
from zarrstream.mappings.postgresql.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarrstream.mappings.postgresql.statements import Statements

T = TypeVar("T")
Durability = Literal["full", "local", "off"]
_LONGEST_PAUSE = 1.0  # seconds between two attempts to reach a server
_LOOKED = 0.02  # seconds between two looks at a transaction that has not ended


class Calls(Protocol):
    """Where the verbs of a mapping go: to any connection, or to the one of a transaction."""

    def call(self, work: Callable[[Connection], T], *, create: bool = False) -> T | None:
        """Run ``work`` on a connection; None where there is no table, and none is to be made."""

    def change(self, work: Callable[[Connection], T], *, create: bool = False) -> T | None:
        """Run ``work``, which starts a transaction, and commit it: once, also where the answer is lost."""


@dataclass(frozen=True)
class Settings:
    """What a user chooses: see `zarrstream.mappings.postgresql.PostgreSQLMapping`."""

    durability: Durability
    timeout: float
    reconnect_timeout: float
    max_connections: int

    def of_session(self) -> dict[str, str]:
        """Return PostgreSQL's own settings for a connection."""
        levels = {"full": "on", "local": "local", "off": "off"}
        return {
            "synchronous_commit": levels[self.durability],
            "statement_timeout": str(max(1, round(1000 * self.timeout))),  # 0 is none at all
            "default_transaction_isolation": "read committed",
            "client_min_messages": "error",
            # The server notices a client that vanished without a word, whose transaction may hold a row.
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            # Every statement has an index to go by. A plan that was made while the table was small would stay, and a
            # transaction that reads a whole table is in conflict with everybody.
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            "jit": "off",
        }


class Session:
    """The way of one mapping to its server.

    Parameters
    ----------
    database : Database
        Where.
    statements : Statements
        On which table.
    place : str
        For messages.
    settings : Settings
        How.

    Attributes
    ----------
    seen : bool
        Whether the table has been there: if so, its absence is an error, not emptiness.
    connected : bool
        Whether the server has answered before: if so, it is waited for.
    """

    def __init__(self, database: Database, statements: Statements, place: str, settings: Settings) -> None:
        self.database = database
        self.statements = statements
        self.place = place
        self.settings = settings
        self.seen = self.connected = False
        connect = partial(database.connect, timeout=settings.timeout, settings=settings.of_session())
        self.pool = Pool(connect, settings.max_connections)

    def change(self, work: Callable[[Connection], T], *, create: bool = False) -> T | None:
        """Run ``work``, which starts a transaction, and commit it; None as `call` has it.

        Nothing of it takes place unless the commit is sent; and if the answer to that is lost, the server is asked
        whether it took place before it is tried again, so that nothing of another writer is changed a second time.
        ``work`` returns None where it has changed nothing, or has nothing to say.
        """
        attempt: Attempt[T] = Attempt()

        def once(connection: Connection) -> T | None:
            if attempt.committed(connection):
                return attempt.result
            try:
                result = work(connection)
                attempt.sent(connection, result)
                connection.commit()
            except BaseException:
                connection.undo()
                if connection.is_idle:  # whatever was sent, it is undone
                    attempt.number = None
                raise
            return attempt.result

        try:
            return self.call(once, create=create)
        except Exception as error:
            if attempt.number is None or not isinstance(error, StoreError):
                raise
            raise unsure(error) from error.__cause__

    def call(self, work: Callable[[Connection], T], *, create: bool = False) -> T | None:
        """Run ``work`` on a connection; None where there is no table, and none is to be made.

        A connection that breaks is replaced and ``work`` runs again: it must be such that twice is once. A server
        that answered before is waited for, since another one may take its place.
        """

        def once() -> T | None:
            seen = self.seen  # before it is asked: another thread may make the table meanwhile
            connection = self._taken()
            try:
                result = work(connection)
            except Error as error:
                if code(error) != NO_TABLE or seen:
                    raise
                if not create:
                    return None
                connection.execute(self.statements.create)
                result = work(connection)
            finally:
                self.pool.give(connection)
            self.seen = True
            return result

        return self._insisting(once)

    def begin(self, statement: str) -> tuple[Connection, bool]:
        """Begin a transaction; return its connection, which the caller gives back, and whether the table is there."""

        def once() -> tuple[Connection, bool]:
            connection = self._taken()
            try:
                connection.execute(statement)
                row = connection.execute(self.statements.there, (self.statements.table,)).fetchone()
            except BaseException:
                self.pool.give(connection)
                raise
            return connection, row == (True,)

        return self._insisting(once)

    def _taken(self) -> Connection:
        connection = self.pool.take(at_most(self.settings.timeout))
        connection.begin(at_most(self.settings.timeout))
        return connection

    def _insisting(self, once: Callable[[], T]) -> T:
        insist = Insistence(at_most(self.settings.reconnect_timeout))
        while True:
            try:
                result = once()
            except Error as error:
                passing = self.connected and passes(error)
                if not (passing or is_conflict(error)) or not insist.again():
                    raise translated(error, self.place) from error
                if passing:
                    self.pool.drain()
            except StoreError:
                raise
            except (OSError, LookupError) as error:  # neither of them may look like an absent key
                raise foreign(error, self.place) from error
            else:
                self.connected = True
                return result

    def close(self) -> None:
        """Close the connections, and forget what was seen."""
        self.pool.close()
        self.seen = self.connected = False


@dataclass
class Attempt(Generic[T]):
    """A change, from its first commit that was sent to the answer.

    Attributes
    ----------
    number : int or None
        The number that the server has given to the transaction; None where none was sent to be committed, or where it
        is known that it did not take place.
    server : str
        Which server that is. Another one, and the same one after it was started again, may give numbers anew.
    result : object
        What it returns.
    """

    number: int | None = None
    server: str = ""
    result: T | None = None

    def sent(self, connection: Connection, result: T | None) -> None:
        """Note what is about to be committed."""
        # An earlier one of another server may have taken place: it is by that that nothing is found any more.
        self.result = result if result is not None else self.result
        self.number, self.server = connection.number, connection.server

    def committed(self, connection: Connection) -> bool:
        """Return whether the commit whose answer was lost took place."""
        if self.number is None or connection.server != self.server:
            return False
        while True:
            row = connection.execute(sql.STATUS, (self.number,)).fetchone()
            if row is None or row[0] != "in progress":
                break
            connection.execute(sql.END_IDLE, (self.number,))
            if time.monotonic() > connection.deadline:
                raise Overdue("the commit has not ended")
            time.sleep(_LOOKED)
        if row == ("committed",):
            return True
        self.number = self.result = None
        return False


class Insistence:
    """How long, and how often, a call is made again.

    Parameters
    ----------
    seconds : float
        From the first failure on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None
        self._pause = 0.0

    def again(self) -> bool:
        """Wait a little; return False if the time is over."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if now >= self._deadline:
            return False
        # At first at once: of a server that was started again, only the old connections are broken.
        time.sleep(min(random.uniform(0, self._pause), self._deadline - now))  # noqa: S311  # so that equals part
        self._pause = min(max(2 * self._pause, 0.02), _LONGEST_PAUSE)
        return True
