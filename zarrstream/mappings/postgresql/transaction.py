"""Transactions and snapshots: a mapping that is bound to one transaction of the server."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

from zarrstream.errors import StoreError, StoreOptionError, StoreUnavailableError, TransactionConflictError
from zarrstream.mappings.postgresql import statements as sql
from zarrstream.mappings.postgresql.driver import Connection, Error
from zarrstream.mappings.postgresql.errors import foreign, gone, is_lost, said, translated
from zarrstream.mappings.postgresql.rows import PostgreSQLRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zarrstream.mappings.postgresql.session import Session

T = TypeVar("T")


class PostgreSQLTransaction(PostgreSQLRows):
    """The rows of one array id, as one transaction sees and changes them. Made by `PostgreSQLMapping.transaction`.

    Notes
    -----
    **Threads**: any number; their calls take turns. **Processes**: that which began it; it does not pickle. It has no
    place, since what it shows is nowhere yet. After its end, and after an error of the server, each call is an error.
    """

    durable_on_write = False

    def __init__(self, bound: Bound, statements: sql.Statements, array_id: str) -> None:
        super().__init__(bound, statements, array_id)
        self._of = bound.session.place

    @property
    def place(self) -> None:
        """None: nobody else sees what is here."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._of!r})"

    def __reduce__(self) -> NoReturn:
        raise StoreOptionError(
            f"a transaction cannot be pickled ({self._of}): it belongs to the process that began it; pickle the store"
        )


class Bound:
    """The way to the server of everything in one transaction: its connection, one call at a time."""

    def __init__(self, session: Session, statement: str) -> None:
        self.session = session
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._over = False
        self.failure: Exception | None = None
        seen = session.seen
        self._connection, self._there = session.begin(statement)
        session.seen |= self._there
        if seen and not self._there:
            session.pool.give(self._connection)
            raise gone(session.place)

    def call(self, work: Callable[[Connection], T], *, create: bool = False) -> T | None:
        """Run ``work`` in the transaction; None where there is no table, and none is to be made."""
        self._check_process()
        with self._lock:
            self._check()
            try:
                self._connection.begin(self.session.settings.timeout)
                if not self._there and not create:
                    return None
                if not self._there:
                    self._connection.execute(self.session.statements.create)
                    self._there = True
                return work(self._connection)
            except Error as error:
                self.failure = translated(error, self.session.place)
                raise self.failure from error
            except (OSError, LookupError) as error:  # neither of them may look like an absent key
                self.failure = foreign(error, self.session.place)
                raise self.failure from error

    change = call

    def commit(self) -> None:
        """End it, with effect.

        Raises
        ------
        TransactionConflictError
            It met another one; nothing of it is stored.
        StoreUnavailableError
            The server went away, and nobody knows whether it is stored.
        """
        with self._ending():
            if self.failure is not None:
                raise type(self.failure)(*self.failure.args) from self.failure
            try:
                self._connection.begin(self.session.settings.timeout)
                self._connection.commit()
            except Error as error:
                self.failure = translated(error, self.session.place)
                if is_lost(error):
                    raise StoreUnavailableError(
                        f"the PostgreSQL database of {self.session.place} went away while a transaction was "
                        f"committed ({said(error)}), and it may be stored or not: read what it wrote"
                    ) from error
                raise self.failure from error

    def rollback(self) -> None:
        """End it, without effect."""
        if os.getpid() == self._process:  # else its connection is the parent's
            with self._ending(), suppress(Error):
                self._connection.rollback()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        self._check_process()
        with self._lock:
            self._over = True
            try:
                yield
            finally:
                self.session.pool.give(self._connection)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreError(
                f"this transaction on {self.session.place} belongs to the process that began it, before a fork: "
                f"begin another one here"
            )

    def _check(self) -> None:
        if self._over:
            raise StoreError(f"this transaction on {self.session.place} is over: begin another one, or use the store")
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args) from self.failure


@contextmanager
def begun(session: Session, statement: str, array_id: str) -> Iterator[PostgreSQLTransaction]:
    """Yield a mapping that is bound to a transaction, which ends with the block: with effect unless that raises."""
    bound = Bound(session, statement)
    try:
        yield PostgreSQLTransaction(bound, session.statements, array_id)
    except BaseException as error:
        bound.rollback()
        conflict = isinstance(bound.failure, TransactionConflictError)
        if conflict and isinstance(error, Exception) and not isinstance(error, TransactionConflictError):
            # What met it has made something else of it: a chunk that could not be written.
            raise bound.failure from error  # type: ignore[misc]  # it is one
        raise
    if statement == sql.SNAPSHOT:
        bound.rollback()
    else:
        bound.commit()
