"""An HTTP proxy that answers as a bad day would: what toxiproxy, which knows no HTTP, cannot."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

#: What may go wrong: a status, or one of these.
RESET, HANG, CUT, SHORT, SLOW_BODY, FLIPPED = "reset", "hang", "cut", "short", "slow-body", "flipped"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_REASONS = {503: "SlowDown", 429: "TooManyRequests", 500: "InternalError", 416: "InvalidRange", 403: "AccessDenied"}


@dataclass(frozen=True)
class Answer:
    """An answer by the proxy itself.

    Attributes
    ----------
    status : int
        HTTP's.
    body : bytes
        What it says.
    headers : tuple of (str, str)
        With what; ``Location`` at ``/`` and so on is a place of this proxy's own.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Raw:
    """Bytes in an answer's place, after which the connection ends.

    Attributes
    ----------
    content : bytes
        Whatever comes.
    """

    content: bytes


class FaultProxy:
    """A proxy before an HTTP server.

    Parameters
    ----------
    port : int
        Of the server, on 127.0.0.1.
    faults : sequence
        Of which one is drawn where something goes wrong: statuses, statuses with a code of S3's
        (``"403 AccessDenied"``), an `Answer`, `Raw` bytes, or the names above.
    rate : float
        Of requests that go wrong.
    seed : int
        Decides which.
    paths : str
        Only requests whose path holds this go wrong.
    methods : str
        Only these do, separated by spaces.
    times : int, optional
        Only so many do.
    skip : int
        So many go right before.
    elsewhere : dict of (str, Answer), optional
        What this proxy says itself at a path.

    Attributes
    ----------
    port : int
        Where the proxy listens.
    requests : list of (str, str)
        Method and path of each request, in the order of arrival.
    peak : int
        How many were under way at once, at the most.
    under_way : int
        How many are now.
    """

    def __init__(
        self,
        port: int,
        faults: Sequence[Fault] = (),
        *,
        rate: float = 1.0,
        seed: int = 0,
        paths: str = "",
        methods: str = "GET HEAD PUT POST DELETE",
        times: int | None = None,
        skip: int = 0,
        elsewhere: dict[str, Answer] | None = None,
    ) -> None:
        self.upstream = port
        self.faults, self.rate, self.paths, self.methods = list(faults), rate, paths, methods.split()
        self.requests: list[tuple[str, str]] = []
        self.times, self.skip, self.elsewhere = times, skip, elsewhere or {}
        self.met: Counter[Fault] = Counter()
        self.peak = self.under_way = 0
        self.ended = threading.Event()
        self.guard = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311  # of faults, no secret
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fault-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def decide(self, method: str, path: str) -> Fault | None:
        """Count a request, and say what goes wrong with it."""
        with self.guard:
            self.requests.append((method, path))
            if path in self.elsewhere:
                return self.elsewhere[path]
            if not self.faults or self.paths not in path or method not in self.methods:
                return None
            if self.times is not None and self.met.total() >= self.times:
                return None
            if self.skip > 0:
                self.skip -= 1
                return None
            fault = self._random.choice(self.faults) if self._random.random() < self.rate else None
            if fault is not None:
                self.met[fault] += 1
            return fault

    def count(self, text: str, method: str = "GET") -> int:
        """Return how many requests there were of a method whose path holds a text."""
        return sum(text in path and method == asked for asked, path in self.requests)


Fault = int | str | Answer | Raw


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of this proxy leave as they like."""


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[FaultProxy]
    protocol_version = "HTTP/1.1"
    timeout = 0.5  # an idle connection's thread looks whether the proxy has ended

    def setup(self) -> None:
        """Take a way to the server for as long as the client's connection lasts."""
        super().setup()
        self.upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=30)

    def finish(self) -> None:
        """Let it go."""
        self.upstream.close()
        super().finish()

    def handle(self) -> None:
        """Serve one connection until its client leaves, or the proxy ends."""
        with suppress(ConnectionError):
            super().handle()

    def handle_one_request(self) -> None:
        """Read a request; idle connections stay open."""
        while not self.proxy.ended.is_set():
            try:
                first = self.connection.recv(1, 2)  # MSG_PEEK
            except TimeoutError:
                continue
            if first:
                super().handle_one_request()
            else:
                self.close_connection = True
            return
        self.close_connection = True

    def serve(self) -> None:
        """Answer one request, well or not."""
        proxy = self.proxy
        with proxy.guard:
            proxy.under_way += 1
            proxy.peak = max(proxy.peak, proxy.under_way)
        try:
            length = int(self.headers.get("Content-Length") or 0)
            self.connection.settimeout(30)
            body = self.rfile.read(length) if length else None
            self._answer(proxy.decide(self.command, self.path), body)
        finally:
            self.connection.settimeout(self.timeout)
            with proxy.guard:
                proxy.under_way -= 1

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815  # http.server's names

    def _answer(self, fault: Fault | None, body: bytes | None) -> None:
        if isinstance(fault, Raw):
            self.wfile.write(fault.content)
            self.close_connection = True
        elif isinstance(fault, Answer):
            self._say(fault)
        elif isinstance(fault, int):
            self._refuse(fault, _REASONS.get(fault, "Error"))
        elif fault is not None and fault[0].isdecimal():
            status, code = fault.split()
            self._refuse(int(status), code)
        elif fault == RESET:
            self.close_connection = True
        elif fault == HANG:
            while not self.proxy.ended.wait(0.02) and not self._left():
                pass
            self.close_connection = True
        else:
            self._forward(fault, body)

    def _left(self) -> bool:
        """Return whether the client has gone."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, 2)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _say(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            here = f"http://127.0.0.1:{self.proxy.port}" if name == "Location" else ""
            self.send_header(name, f"{here}{value}")
        if answer.status not in {204, 304} and not any(name == "Content-Length" for name, _ in answer.headers):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _refuse(self, status: int, code: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _forward(self, fault: str | None, body: bytes | None) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"connection", "expect"}}
        try:
            self.upstream.request(self.command, self.path, body=body, headers=headers)
            answer = self.upstream.getresponse()
            content = answer.read()
        except (http.client.HTTPException, OSError):
            self.upstream.close()
            raise ConnectionAbortedError from None
        sent = content[: len(content) // 2] if fault in {CUT, SHORT} and content else content
        if fault == FLIPPED and content:
            sent = bytes([content[0] ^ 1]) + content[1:]
        length = len(sent) if fault == SHORT else answer.getheader("Content-Length") or len(content)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == SLOW_BODY:
            self._trickle(content)
        self.wfile.write(sent)
        self.close_connection = fault == CUT

    def _trickle(self, content: bytes) -> None:
        """Send a byte at a time, for as long as anybody reads: no time-out of a socket ever trips."""
        for at in range(len(content)):
            if self.proxy.ended.wait(0.05) or self._left():
                break
            self.connection.settimeout(30)
            self.wfile.write(content[at : at + 1])
        self.close_connection = True
        raise ConnectionAbortedError

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Keep quiet."""
