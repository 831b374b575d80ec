"""psycopg: what a URL names, and connections whose calls end. The only file that knows the driver."""

from __future__ import annotations

import math
import os
import re
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from zarrstream.concurrency.context import bound
from zarrstream.concurrency.deadline import at_most, remaining
from zarrstream.errors import StoreOptionError, raise_alone

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")
Error = psycopg.Error
_IDLE = pq.TransactionStatus.IDLE
_BEGUN = frozenset({pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR})
_WITHIN = "SELECT set_config('statement_timeout', %s, true)"
# Seconds that the server has, beyond a statement's time, to say itself that it was too long.
_GRACE = 2.0
# A synchronous_commit that waits for more than "on" does is kept.
_SET = "set_config(%s, CASE current_setting(%s) WHEN 'remote_apply' THEN 'remote_apply' ELSE %s END, false)"


class Overdue(psycopg.OperationalError):
    """A server that does not answer at all; the connection is closed."""


class Connection(psycopg.Connection[TupleRow]):
    """A connection whose calls end at a deadline, also where the server hangs and heeds none of its own.

    Attributes
    ----------
    deadline : float
        When the present call ends, as `time.monotonic` counts.
    share : object
        What of its pool it belongs to.
    server : str
        When the server was started, which tells it from any other one.
    number : int or None
        The server's number of the transaction under way, as far as its statements have told it.
    """

    deadline: float = math.inf
    share: Any = None
    server: str = ""
    number: int | None = None
    _seconds: float = math.inf

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # psycopg's
        super().__init__(*args, **kwargs)
        self._process = os.getpid()

    def __del__(self, *_: object) -> None:
        # Not psycopg's, which warns: a mapping that nobody closes closes its connections. In a forked child this one
        # is the parent's.
        if getattr(self, "_process", None) == os.getpid():
            self.close()

    def begin(self, seconds: float) -> None:
        """Give the calls that follow so long, or what is left to whoever makes them."""
        self.deadline = time.monotonic() + at_most(seconds + _GRACE)
        self._seconds = seconds

    def start(self, statement: str | None = None, row: Any = (), **options: Any) -> Any:  # noqa: ANN401  # as `execute` has it
        """Begin a transaction, unless one has begun, and run its first statement."""
        self.number = None
        if self.has_begun:
            return self.execute(statement, row, **options) if statement else None
        # One answer for both spares a round trip, and costs 0.1 ms of computing: more than the trip within a machine.
        if statement is None or self._is_near or not psycopg.Pipeline.is_supported():
            return self._start(statement, row, **options)
        with self.pipeline():
            return self._start(statement, row, **options)

    def _start(self, statement: str | None, row: Any, **options: Any) -> Any:  # noqa: ANN401  # as above
        self.execute("BEGIN")
        left = at_most(self._seconds)
        if left < self._seconds:  # the server's own time-out is the mapping's
            self.execute(_WITHIN, (str(max(1, round(1000 * left))),))
        return self.execute(statement, row, **options) if statement else None

    @cached_property
    def _is_near(self) -> bool:
        host = self.info.hostaddr if self.info.host else ""
        return not host or host == "::1" or host.startswith(("127.", "/"))

    def undo(self) -> None:
        """End what has begun, without effect; what cannot be asked for that is closed by the pool."""
        if self.has_begun:
            with suppress(psycopg.Error):
                self.rollback()

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Any:  # noqa: ANN401  # psycopg's
        patience = _patience.get()
        steps = super()._connect_gen(conninfo)
        return steps if patience is None else patience.bounded(steps)

    @property
    def has_begun(self) -> bool:
        """Whether it is in a transaction, failed or not."""
        return self.pgconn.transaction_status in _BEGUN

    @property
    def is_idle(self) -> bool:
        """Whether it is whole and in no transaction."""
        return self.pgconn.transaction_status == _IDLE

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # as psycopg has it
        """Run a step of the protocol, for as long as it may take."""
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, steps: Any) -> Any:  # noqa: ANN401  # psycopg's generators
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if time.monotonic() > self.deadline:  # also where something came: one byte at a time, say
                    self.pgconn.finish()
                    raise Overdue("the server does not answer")
                wanted = steps.send(ready)
        except StopIteration as end:
            return end.value

    def disown(self) -> None:
        """Let go of the socket without a word to the server: it is the parent's, and we are its forked child."""
        with suppress(psycopg.Error):  # it has none any more
            nowhere = os.open(os.devnull, os.O_RDWR)
            try:
                os.dup2(nowhere, self.pgconn.socket)
            finally:
                os.close(nowhere)
        self.pgconn.finish()  # says farewell, to nowhere


class _Patience:
    """How long it may take to connect to one of several hosts: what is left is shared among those still to be tried.

    Parameters
    ----------
    end : float
        When it is over, as `time.monotonic` counts.
    hosts : int
        How many there are.
    """

    def __init__(self, end: float, hosts: int) -> None:
        self._end = end
        self._hosts = hosts

    def bounded(self, steps: Any) -> Any:  # noqa: ANN401  # psycopg's generators
        """Run the steps of one connection."""
        now = time.monotonic()
        end = now + (self._end - now) / max(1, self._hosts)
        self._hosts -= 1
        try:
            if now >= self._end:
                raise Overdue("there is no time left to connect")
            wanted = next(steps)
            while True:
                ready = yield wanted
                if time.monotonic() > end:
                    raise Overdue("the server does not answer")
                wanted = steps.send(ready)
        except StopIteration as stop:
            return stop.value
        finally:
            steps.close()


_patience: ContextVar[_Patience | None] = ContextVar("zarrstream_postgresql_patience", default=None)


@dataclass(frozen=True)
class Database:
    """What a URL names.

    Attributes
    ----------
    url : str
        As it was given; it may hold a password.
    given : dict
        Its parts, by libpq's names.
    place : str
        The same as a URL of hosts, ports and name alone.
    hosts : int
        How many there are.
    """

    url: str = field(repr=False)
    given: dict[str, Any] = field(repr=False)
    place: str
    hosts: int = 1

    @property
    def search_path(self) -> str:
        """Where tables without a schema are, as far as URL and environment say so; ``""`` where they do not."""
        options = str(self.given.get("options") or os.environ.get("PGOPTIONS", ""))
        found = re.findall(r"(?:-c\s*|--)search_path=((?:\\.|\S)+)", options)
        return found[-1].replace("\\", "") if found else ""

    def connect(self, *, timeout: float, settings: dict[str, str]) -> Connection:
        """Return a new connection.

        Parameters
        ----------
        timeout : float
            How long it may take to reach one host, in seconds, where the URL has no ``connect_timeout``.
        settings : dict
            The session's, by PostgreSQL's names.
        """
        seconds = max(2, math.ceil(timeout))
        wanted = {
            "connect_timeout": min(seconds, 10),
            # A host that vanished without a word is noticed.
            "tcp_user_timeout": 1000 * seconds,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "fallback_application_name": "zarrstream",
        }
        extra: dict[str, Any] = {name: value for name, value in wanted.items() if name not in self.given}
        left = remaining()
        with bound(_patience, None if left is None else _Patience(time.monotonic() + left, self.hosts)):
            connection = Connection.connect(self.url, autocommit=True, client_encoding="UTF8", **extra)
        try:
            connection.begin(timeout)
            _require_utf8(connection, self.place)
            setting = ", ".join([_SET] * len(settings))
            row = connection.execute(
                f"SELECT pg_postmaster_start_time()::text, {setting}",
                [part for name, value in settings.items() for part in (name, name, value)],
            ).fetchone()
            connection.server = "" if row is None else row[0]
        except BaseException:
            connection.close()
            raise
        return connection


def database(url: str) -> Database:
    """Return what a URL, or a string of libpq's ``name=value`` pairs, names.

    Raises
    ------
    StoreOptionError
        It is neither. The message repeats nothing of it: it may be the password that was not written as it has to be.
    """
    try:
        given = _parts(url)
        default = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()}
        parts = {**default, **given}
        hosts = str(parts["host"] or parts["hostaddr"] or "localhost").split(",")
        ports = [int(port or 5432) for port in str(parts["port"] or 5432).split(",")]
        name = str(parts["dbname"] or parts["user"])
    except (psycopg.Error, ValueError, TypeError):
        wrong = StoreOptionError(
            "the URL of a PostgreSQL database is postgresql://user:password@host:port/database, with signs like "
            "'@', '/', '?' and '%' in user and password percent-encoded (urllib.parse.quote(password, safe=''))"
        )
        raise_alone(wrong)
    where = ",".join(f"{_host(host)}:{port}" for host, port in zip(hosts, cycle(ports), strict=False))
    if given.get("service"):  # a file of the user's says where it is
        where = f"service={quote(str(given['service']), safe='')}"
    return Database(url, given, f"postgresql://{where}/{quote(name, safe='')}", len(hosts))


def quoted(table_name: str) -> str:
    """Return a table's name, with or without a schema before a dot, as SQL has it."""
    return sql.Identifier(*table_name.split(".")).as_string(None)


def _parts(url: str) -> dict[str, Any]:
    if "://" in url and not _is_clear(url):
        raise ValueError
    return dict(conninfo_to_dict(url))


def _is_clear(url: str) -> bool:
    """Return whether an ``@`` stands only where it ends the credentials: elsewhere it is part of a password."""
    authority, _, rest = url.partition("://")[2].partition("/")
    return authority.count("@") <= 1 and "@" not in rest.partition("?")[0]


def _host(host: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", host):
        return f"[{host.lower()}]"
    return quote(host.lower() if not host.startswith(("/", "@")) else host, safe="")


def _require_utf8(connection: Connection, place: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreOptionError(
            f"the database {place} is encoded in {encoding}, which cannot hold all keys: "
            f"make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def copied(cursor: Any, statement: str, types: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:  # noqa: ANN401  # psycopg's
    """Send rows by a COPY in binary."""
    with cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)
