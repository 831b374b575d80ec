"""What telemetry is told to in the tests: a receiver of OTLP, an application that tells, and Prometheus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.optional import require
from tests.programs import Server, data_folder, free_port, listens
from tests.services import PROMETHEUS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
scrape_configs:
  - job_name: application
    scrape_interval: 200ms
    scrape_timeout: 200ms
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def get(port: int, path: str, **query: str) -> bytes:
    """Ask a server of this machine."""
    url = f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:  # http, as the line above says
        return bytes(answer.read())


@dataclass
class Application:
    """A process that has told all that it does, and goes on being scraped.

    Attributes
    ----------
    query_port : int
        Where the receiver of its spans is asked.
    metrics_port : int
        Where it is scraped.
    """

    query_port: int
    metrics_port: int

    def spans(self) -> list[dict[str, Any]]:
        """Return what the receiver has."""
        return list(json.loads(get(self.query_port, "/spans")))

    def scrape(self) -> str:
        """Return what it tells Prometheus."""
        return get(self.metrics_port, "/metrics").decode()


@pytest.fixture(scope="session")
def application() -> Iterator[Application]:
    """An application, as the page sets it up, and the receiver that it tells its spans."""
    require("opentelemetry.exporter.otlp.proto.grpc")
    require("opentelemetry.exporter.prometheus")
    with data_folder() as folder:
        ports = Application(free_port(), free_port())
        command = [sys.executable, "-m", "tests.otlp_receiver", "{port}", str(ports.query_port)]
        receiver = Server(command, folder, environment={"PYTHONPATH": str(ROOT)})
        receiver.start(lambda server: listens(server) and _answers(ports.query_port, "/spans"))
        environment = {
            **os.environ,
            "OTEL_SERVICE_NAME": "application",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(ports.metrics_port),
        }
        command = [sys.executable, "-m", "tests.sight.application", str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "told\n"
            yield ports
            process.communicate(timeout=30)
        receiver.stop()


@pytest.fixture(scope="session")
def prometheus(application: Application) -> Iterator[Server]:
    """A Prometheus that scrapes the application."""
    binary = PROMETHEUS.path()
    with data_folder() as folder:
        (folder / "prometheus.yml").write_text(CONFIGURATION.format(port=application.metrics_port))
        command = [
            str(binary),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:{port}",
        ]
        server = Server(command, folder)
        server.start(lambda server: _answers(server.port, "/-/ready"))
        yield server
        server.stop()


def _answers(port: int, path: str) -> bool:
    try:
        get(port, path)
    except OSError:
        return False
    return True
