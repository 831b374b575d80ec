"""One array id in one table of a PostgreSQL database, written by many threads, processes and machines at once."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from zarrstream.errors import StoreOptionError
from zarrstream.mappings.postgresql import statements as sql
from zarrstream.mappings.postgresql.driver import database, quoted
from zarrstream.mappings.postgresql.rows import PostgreSQLRows
from zarrstream.mappings.postgresql.session import Durability, Session, Settings
from zarrstream.mappings.postgresql.transaction import begun

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from zarrstream.mappings.postgresql.transaction import PostgreSQLTransaction

_LONGEST_NAME = 63  # bytes; PostgreSQL cuts a longer one off, without an error


class PostgreSQLMapping(PostgreSQLRows):
    """Bytes under string keys: the rows of one array id in one table of a PostgreSQL database.

    Parameters
    ----------
    url : str
        ``postgresql://user:password@host:port/database``, with several hosts and options as libpq has them
        (``?target_session_attrs=read-write&sslmode=require``); it is the driver that reads it. What it does not say,
        libpq's environment does (``PGHOST``, ``PGPASSWORD``, ``PGPASSFILE``, …).
    table_name : str, optional
        The table; one in a schema is written ``schema.table``. The first write makes it; opening and reading make
        nothing: a table that is not there reads as empty.
    array_id : str, optional
        Whose rows of the table these are: many arrays, or hierarchies, share one table without seeing each other.
    durability : {"full", "local", "off"}, optional
        What an acknowledged write survives:

        * ``"full"``: power loss, and the loss of the primary where it has a synchronous standby.
        * ``"local"``: the primary's power loss; synchronous standbys are not waited for.
        * ``"off"``: the kill of this process; the server's crash loses the last moments, and leaves the rest whole.
    timeout : float, optional
        How long one call may take once it has a connection, in seconds, and how long it waits for one. It ends the
        call also where the server hangs.
    reconnect_timeout : float, optional
        How long, in seconds, a call insists on a server that answered before and does not now: it is started again,
        or another of the URL's hosts takes its place.
    max_connections : int, optional
        How many connections this mapping has at most in a process. A transaction, or snapshot, holds one.

    Raises
    ------
    StoreOptionError
        A URL that libpq does not understand, a name that no table can have, or another value that is none.

    Notes
    -----
    **Threads**: any number; they share ``max_connections`` connections.

    **Processes**: any number, on any number of machines. No connection is carried through a fork: a child makes its
    own, and leaves the parent's alone.

    **Atomicity**: each call is one transaction, `update_many`, `setdefault` and `pop` included; a value, a range of it
    and the result of `read_many` are of one version. Listings are read in pages: keys written meanwhile may or may not
    be seen. `transaction` and `snapshot` put many calls into one.

    **Durability**: an acknowledged write survives what ``durability`` says. A connection that breaks is replaced, and
    the call made again, once the server has said that the first one did not take place. So a write goes on by itself
    after the server was started again, or the standby promoted. (Neither can say so: there, twice is once.)

    **A lost place**: a database or a server that is not there is an error, always. Once the table has been seen, its
    absence is `StoreUnavailableError`, here and in every pickled copy; never "empty". `close` forgets what was seen.
    So an absent row is a fact: it was read in a transaction in which the table was there, and no other document has
    to be asked whether that is so.

    **Pickling**: to the URL and options; a copy reconnects. The pickle holds the password where the URL does: it is a
    secret. **Size**: values under 1 GB; keys and array ids of 2,700 bytes together.
    """

    def __init__(
        self,
        url: str,
        *,
        table_name: str = "zarr",
        array_id: str = "default",
        durability: Durability = "full",
        timeout: float = 60.0,
        reconnect_timeout: float = 60.0,
        max_connections: int = 16,
    ) -> None:
        if durability not in get_args(Durability):
            raise StoreOptionError(f"durability is 'full', 'local' or 'off', not {durability!r}")
        if not (_is_seconds(timeout) and timeout):
            raise StoreOptionError(f"timeout is a number of seconds, more than 0, not {timeout!r}")
        if not _is_seconds(reconnect_timeout):
            raise StoreOptionError(f"reconnect_timeout is a number of seconds, 0 or more, not {reconnect_timeout!r}")
        if not _is_count(max_connections):
            raise StoreOptionError(f"max_connections is a number, 1 or more, not {max_connections!r}")
        self._table_name = _table(table_name)
        settings = Settings(durability, timeout, reconnect_timeout, max_connections)
        self._session = _session(url, table_name, _id(array_id), settings)
        super().__init__(self._session, self._session.statements, array_id)

    @property
    def place(self) -> str:
        """``postgresql://host:port/database/table?array_id=…``, without user, password and options."""
        return self._session.place

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        settings = self._session.settings
        make = partial(
            type(self),
            table_name=self._table_name,
            array_id=self._array_id,
            durability=settings.durability,
            timeout=settings.timeout,
            reconnect_timeout=settings.reconnect_timeout,
            max_connections=settings.max_connections,
        )
        return make, (self._session.database.url,), (self._session.seen, self._session.connected)

    def __setstate__(self, known: tuple[bool, bool]) -> None:
        # A worker that meets another server, without the table, must say so, and not read fill values.
        self._session.seen, self._session.connected = known

    def transaction(self) -> AbstractContextManager[PostgreSQLTransaction]:
        """Begin a SERIALIZABLE transaction.

        Returns
        -------
        context manager
            It yields a mapping: what goes through it, from any thread, is one commit at the end of the block, or
            nothing if the block raises.

        Raises
        ------
        TransactionConflictError
            In the block or at its end: another transaction read or wrote the same. Nothing is stored; run it again.
        """
        return begun(self._session, sql.TRANSACTION, self._array_id)

    def snapshot(self) -> AbstractContextManager[PostgreSQLTransaction]:
        """Begin a REPEATABLE READ transaction that only reads.

        Returns
        -------
        context manager
            It yields a mapping that shows one version until the end of the block, whatever others write.
        """
        return begun(self._session, sql.SNAPSHOT, self._array_id)

    def close(self) -> None:
        """Close the connections, each as soon as its present call (or transaction) is over."""
        self._session.close()


def _session(url: str, table_name: str, array_id: str, settings: Settings) -> Session:
    server = database(url)
    table = quote(table_name, safe="")
    if "." not in table_name and server.search_path:  # the same name in another schema is another table
        table = f"{quote(server.search_path, safe='')}.{table}"
    place = f"{server.place}/{table}?array_id={quote(array_id, safe='')}"
    return Session(server, sql.Statements.on(quoted(table_name)), place, settings)


def _table(name: object) -> str:
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) not in {1, 2} or not all(
        0 < len(part.encode()) <= _LONGEST_NAME and "\0" not in part for part in parts
    ):
        raise StoreOptionError(
            f"table_name is the name of a table, or schema.table, each of 63 bytes at most, not {name!r}"
        )
    return str(name)


def _id(array_id: object) -> str:
    if isinstance(array_id, str) and array_id and "\0" not in array_id:
        return array_id
    raise StoreOptionError(f"array_id is a text that is not empty, not {array_id!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < threading.TIMEOUT_MAX
