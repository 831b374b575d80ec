"""A server's program, found or installed; and a server that this run has started, stopped by process id."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.optional import absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Where what is downloaded stays, for the next run and for the other environments of this one.
CACHE = Path(os.environ.get("ZARRSTREAM_SERVICES") or Path.home() / ".cache" / "zarrstream-services")
PATIENCE = 60.0  # seconds that a server may take to be ready


@dataclass(frozen=True)
class Program:
    """A server's binary.

    Attributes
    ----------
    name : str
        What it is called on the command line of this module.
    find : callable
        Its path, or None.
    install : tuple of str
        The command that brings it.
    """

    name: str
    find: Callable[[], Path | None]
    install: tuple[str, ...]

    def path(self) -> Path:
        """Return the binary; install it first under CI, skip on a user's machine that has none."""
        found = self.find()
        if found is None and os.environ.get("CI") and "ZARRSTREAM_BARE" not in os.environ:
            self.bring()
            found = self.find()
        if found is None:
            absent(
                f"{self.name} is not here: python -m tests.services install {self.name}",
                expected="ZARRSTREAM_BARE" not in os.environ,
            )
        assert found is not None
        return found

    def bring(self) -> None:
        """Install it, once, whoever else wants it at the same time."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.find() is None:
                # Debian's lists of packages are old or missing on a fresh machine.
                if self.install[0] == "apt-get":
                    subprocess.run(("apt-get", "-qq", "update"), check=False, stdout=sys.stderr)  # noqa: S607  # wherever it is
                subprocess.run(self.install, check=False, stdout=sys.stderr)


def on_path(name: str) -> Path | None:
    """Return where a program is that the shell would find."""
    found = shutil.which(name)
    return None if found is None else Path(found)


def first(paths: list[Path]) -> Path | None:
    """Return the first of some paths that is there."""
    return next((path for path in paths if path.exists()), None)


@dataclass
class Server:
    """A server that this run of the tests has started.

    Attributes
    ----------
    command : list of str
        How it is started; with ``{port}`` for its port.
    folder : Path
        Its data, and its log.
    user : str or None
        Whom it runs as, where not as ourselves.
    port : int
        Where it listens on 127.0.0.1.
    environment : dict
        What it is told by environment variables.
    """

    command: list[str]
    folder: Path
    user: str | None = None
    port: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, ready: Callable[[Server], bool]) -> None:
        """Start it, on the port that it had before if there was one, and wait until it answers."""
        self.port = self.port or free_port()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [part.format(port=self.port) for part in self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
                cwd=self.folder,
                env={**os.environ, **self.environment},
            )
        deadline = time.monotonic() + PATIENCE
        while not ready(self):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"{self.command[0]} does not start:\n{self.log()[-2000:]}", pytrace=False)
            time.sleep(0.02)

    def log(self) -> str:
        """Return what the server has written."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self, signal_: int = signal.SIGTERM) -> None:
        """Ask it to end, and insist."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal_)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would; its data stay."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(server: Server) -> bool:
    """Return whether somebody answers at the server's port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


@contextlib.contextmanager
def data_folder(user: str | None = None) -> Iterator[Path]:
    """Yield a folder for a server's data, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="zarrstream-"))
    try:
        if user is not None:
            shutil.chown(folder, user, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def marks(service: str | None) -> list[pytest.MarkDecorator]:
    """Return the marks of a test that needs a service, named by its fixture; none for None."""
    return [pytest.mark.server] if service else []


def servers(service: str | None, request: pytest.FixtureRequest) -> list[Server]:
    """Return the server of a service, started if it has not been; nothing for None."""
    return [request.getfixturevalue(service)] if service else []
