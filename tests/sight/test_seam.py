"""The seam to OpenTelemetry: what is asked when nobody listens, and what retries and caches tell."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.optional import require
from zarrstream import telemetry

if TYPE_CHECKING:
    from tests.sight.conftest import Seen


def run(program: str) -> None:
    """Run a program in an interpreter of its own."""
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_where_nobody_listens_nothing_is_imported() -> None:
    """Without a provider neither the import nor a stream loads a line of OpenTelemetry."""
    run(
        "import sys, zarr, zarrstream\n"
        "from zarrstream import telemetry\n"
        "array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype='i4')\n"
        "zarrstream.write_stream(array, zarrstream.stream_chunks(array))\n"
        "telemetry.retried('get', 's3')\n"
        "telemetry.cache_asked(True)\n"
        "assert telemetry.sight() is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )


def test_the_api_without_a_provider_is_nobody() -> None:
    """A library that imports OpenTelemetry's API sets no provider."""
    run(
        "import opentelemetry.metrics, opentelemetry.trace\n"
        "from zarrstream import telemetry\n"
        "telemetry.retried('get', 's3')\n"
        "assert telemetry.sight() is None\n"
    )


def test_a_provider_that_is_set_later_is_heard() -> None:
    """What is told after a provider was set arrives, also by instruments that were made before."""
    require("opentelemetry.sdk.metrics")
    run(
        "import opentelemetry.metrics as metrics, opentelemetry.trace\n"
        "from zarrstream import telemetry\n"
        "telemetry.cache_asked(True)\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
        "reader = InMemoryMetricReader()\n"
        "metrics.set_meter_provider(MeterProvider([reader]))\n"
        "assert telemetry.sight().tracer is None\n"
        "telemetry.cache_asked(True)\n"
        "[scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics\n"
        "[metric] = scope.metrics\n"
        "assert metric.name == 'zarrstream.cache.requests'\n"
        "assert metric.data.data_points[0].value == 1\n"
    )


def test_an_sdk_that_is_switched_off_is_nobody() -> None:
    """`OTEL_SDK_DISABLED` ends the tracing, whatever is set."""
    require("opentelemetry.sdk.trace")
    run(
        "import os; os.environ['OTEL_SDK_DISABLED'] = 'true'\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "trace.set_tracer_provider(TracerProvider())\n"
        "from zarrstream import telemetry\n"
        "assert telemetry.sight() is None\n"
    )


def test_the_scope_has_name_version_and_schema(seen: Seen) -> None:
    """Spans and metrics come from `zarrstream`, in its version, under the schema of the conventions."""
    sight = telemetry.sight()
    assert sight is not None
    assert sight.tracer is not None
    sight.tracer.start_span("x").end()  # not one of ours
    telemetry.retried("get", "s3")
    [span] = seen.spans()
    for scope in (span.instrumentation_scope, seen.metric_scope()):
        assert scope.name == "zarrstream"
        assert scope.version == telemetry.version("zarrstream")
        assert scope.schema_url == telemetry.signals.SCHEMA_URL


def test_retries_and_cache_requests_are_counted(seen: Seen) -> None:
    """Each retry by operation and kind of store, each request of a cache by its answer."""
    for operation, system in (("get", "s3"), ("get", "s3"), ("set", "mongodb")):
        telemetry.retried(operation, system)
    for hit in (True, False, True):
        telemetry.cache_asked(hit)
    assert seen.points("zarrstream.retries") == {
        (("zarrstream.store", "s3"), ("zarrstream.store.operation", "get")): 2,
        (("zarrstream.store", "mongodb"), ("zarrstream.store.operation", "set")): 1,
    }
    assert seen.points("zarrstream.cache.requests") == {
        (("zarrstream.cache.hit", True),): 2,
        (("zarrstream.cache.hit", False),): 1,
    }


def test_a_note_follows_its_context() -> None:
    """What is told in a thread or task that has the context is noted, and nothing of it after the end."""

    async def work() -> None:
        await asyncio.to_thread(telemetry.retried, "get", "s3")
        await asyncio.create_task(asyncio.to_thread(telemetry.cache_asked, False))

    with telemetry.noting(telemetry.Note()) as note:
        telemetry.retried("get", "s3")
        asyncio.run(work())
    telemetry.retried("get", "s3")
    assert note.attributes == {"zarrstream.attempts": 3, "zarrstream.cache.hit": False}
    assert telemetry.Note().attributes == {}
