"""A TCP proxy behind which every answer comes, a byte at a time."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class TrickleProxy:
    """A proxy that hands a server's first bytes on at once, and each further one after 10 ms.

    Parameters
    ----------
    port : int
        Of the server, on 127.0.0.1.
    quick : int
        How many bytes of each connection come at once.

    Attributes
    ----------
    port : int
        Where the proxy listens.
    """

    def __init__(self, port: int, quick: int) -> None:
        self._upstream = port
        self._quick = quick
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += (client, server)
                for work, pair in ((self._ask, (client, server)), (self._answer, (server, client))):
                    self._threads.append(threading.Thread(target=work, args=pair))
                    self._threads[-1].start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        left = self._quick
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data[:left])
                for start in range(left, len(data)):
                    if self._over.wait(0.01):
                        return
                    client.sendall(data[start : start + 1])
                left = max(0, left - len(data))
            client.shutdown(socket.SHUT_RDWR)
