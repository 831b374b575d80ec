"""The cloud's servers on this machine: S3, GCS and Azure Blob Storage, and what stands between them and a client.

``python -m tests.services install NAME`` brings one onto this machine; under CI the fixture does it by itself.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest

from tests.optional import require
from tests.programs import CACHE, Program, Server, data_folder, first, listens, on_path

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The credentials of every S3 server that the tests start.
S3_USER, S3_SECRET = "zarrstream", "zarrstream-secret"
#: Azurite's one account, and its key, which its documentation publishes.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _go(name: str, package: str, built: str | None = None) -> Program:
    """Return a program of Go's: built from its published source, once, beside what else is kept for the tests."""
    folder = CACHE / "bin"
    command = f"go install -p 2 -trimpath -ldflags='-s -w' {package}"
    if built is not None:
        command += f" && mv {folder / built} {folder / name}"
    return Program(
        name,
        lambda: first([folder / name]) or on_path(name),
        ("env", f"GOBIN={folder}", "CGO_ENABLED=0", "sh", "-c", command),
    )


MINIO = _go("minio", "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c")
FAKE_GCS = _go("fake-gcs-server", "github.com/fsouza/fake-gcs-server@v1.56.1")
TOXIPROXY = _go("toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0", built="server")
_BLOB = Path("node_modules/azurite/dist/src/blob/main.js")
AZURITE = Program(
    "azurite",
    lambda: first([CACHE / "azurite" / _BLOB]),
    ("npm", "install", "--silent", "--prefix", str(CACHE / "azurite"), "azurite@3.35.0"),
)
CLOUD_PROGRAMS = {program.name: program for program in (MINIO, FAKE_GCS, TOXIPROXY, AZURITE)}


def answers(server: Server, path: str) -> bool:
    """Return whether a server says yes at a path."""
    with suppress(URLError, OSError), _request(server, "GET", path) as response:
        return bool(response.status == 200)  # OK
    return False


def _request(server: Server, method: str, path: str, content: Any = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=None if content is None else json.dumps(content).encode(),
        method=method,
    )
    return urllib.request.urlopen(request, timeout=10)  # noqa: S310  # http, and of this machine


@pytest.fixture(scope="session")
def minio() -> Iterator[Server]:
    """S3: MinIO."""
    binary = MINIO.path()
    with data_folder() as folder:
        own = {"MINIO_ROOT_USER": S3_USER, "MINIO_ROOT_PASSWORD": S3_SECRET}
        quiet = {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "MINIO_CALLHOME_ENABLE": "off"}
        command = [str(binary), "server", "--quiet", "--address", "127.0.0.1:{port}", str(folder / "data")]
        server = Server(command, folder, environment={**own, **quiet})
        server.start(lambda at: answers(at, "/minio/health/ready"))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """S3 again: moto, which is Python alone, and covers what it can where MinIO is not to be had."""
    require("moto.server")
    with data_folder() as folder:
        server = Server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"], folder)
        server.start(listens)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[Server]:
    """Google Cloud Storage: fake-gcs-server, in memory."""
    binary = FAKE_GCS.path()
    with data_folder() as folder:
        at = "127.0.0.1:{port}"
        command = [str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", "{port}", "-backend", "memory"]
        command += ["-public-host", at, "-external-url", f"http://{at}", "-log-level", "warn"]
        server = Server(command, folder)
        server.start(lambda at: answers(at, "/_internal/healthcheck"))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def azurite() -> Iterator[Server]:
    """Azure Blob Storage: Azurite, in memory."""
    script = AZURITE.path()
    with data_folder() as folder:
        command = ["node", str(script), "--blobHost", "127.0.0.1", "--blobPort", "{port}", "--inMemoryPersistence"]
        server = Server([*command, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], folder)
        server.start(listens)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Server]:
    """A proxy that delays, cuts, resets and hangs on demand: see `Proxy`."""
    binary = TOXIPROXY.path()
    with data_folder() as folder:
        command = [str(binary), "-host", "127.0.0.1", "-port", "{port}"]
        server = Server(command, folder, environment={"LOG_LEVEL": "error"})
        server.start(lambda at: answers(at, "/version"))
        yield server
        server.stop()


class Proxy:
    """A way to a server through toxiproxy.

    Parameters
    ----------
    toxiproxy : Server
        The proxy.
    upstream : int
        The port of 127.0.0.1 that it leads to.

    Attributes
    ----------
    port : int
        Where it listens on 127.0.0.1.
    """

    def __init__(self, toxiproxy: Server, upstream: int) -> None:
        self._toxiproxy = toxiproxy
        self.name = f"p{os.urandom(6).hex()}"
        wanted = {"name": self.name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{upstream}"}
        with _request(toxiproxy, "POST", "/proxies", wanted) as response:
            self.port = int(json.load(response)["listen"].rpartition(":")[2])

    def add(self, kind: str, *, toxicity: float = 1.0, stream: str = "downstream", **attributes: Any) -> None:
        """Begin to spoil: ``latency``, ``bandwidth``, ``reset_peer``, ``timeout``, ``limit_data``, ``slicer``."""
        toxic = {"name": kind, "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        _request(self._toxiproxy, "POST", f"/proxies/{self.name}/toxics", toxic).close()

    def mend(self) -> None:
        """Spoil nothing any more."""
        with _request(self._toxiproxy, "GET", f"/proxies/{self.name}/toxics") as response:
            for toxic in json.load(response):
                _request(self._toxiproxy, "DELETE", f"/proxies/{self.name}/toxics/{toxic['name']}").close()

    def close(self) -> None:
        """Take the way away."""
        _request(self._toxiproxy, "DELETE", f"/proxies/{self.name}").close()
