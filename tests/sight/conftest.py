"""What was told to OpenTelemetry: providers in memory, set for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.optional import require
from tests.sight.conventions import check_metric, check_span
from tests.sight.providers import give_back
from tests.sight.services import application, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["application", "prometheus", "seen"]


class Seen:
    """The spans and metrics of one test.

    Parameters
    ----------
    exporter, reader : object
        The SDK's own for tests.
    """

    def __init__(self, exporter: Any, reader: Any) -> None:
        self._exporter, self._reader = exporter, reader

    def spans(self, name: str = "") -> list[Any]:
        """Return the ended spans, in that order; of one name, or all."""
        return [span for span in self._exporter.get_finished_spans() if name in ("", span.name)]

    def forget(self) -> None:
        """Forget the spans so far."""
        self._exporter.clear()

    def span(self, name: str) -> Any:
        """Return the one span of a name."""
        [found] = self.spans(name)
        return found

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by name."""
        return {metric.name: metric for scope in self._scopes() for metric in scope.metrics}

    def metric_scope(self) -> Any:
        """Return the scope of the metrics."""
        [scope] = self._scopes()
        return scope.scope

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Return a metric's values, or counts of a histogram, by its sorted attributes."""
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric else ()
        return {
            tuple(sorted(point.attributes.items())): point.count if hasattr(point, "count") else point.value
            for point in points
        }

    def total(self, name: str, **attributes: Any) -> Any:
        """Return the sum over the points with these attributes: ``io_direction`` is ``zarrstream.io.direction``."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return sum(
            value
            for point, value in self.points(name).items()
            if wanted.items() <= {key.removeprefix("zarrstream."): at for key, at in point}.items()
        )

    def waited(self, who: str) -> float:
        """Return the seconds that the caller, or the stream, has waited in all."""
        points = self.metrics()["zarrstream.stream.backpressure.duration"].data.data_points
        return sum(point.sum for point in points if point.attributes["zarrstream.stream.waiting"] == who)

    def _scopes(self) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Set providers that keep what they are told, for this test alone; all of it has to keep to the conventions."""
    require("opentelemetry.sdk")
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider([reader], shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    give_back(monkeypatch)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    yield (seen := Seen(exporter, reader))
    for span in seen.spans():
        if span.name.startswith("zarrstream."):
            check_span(span)
    for metric in seen.metrics().values():
        check_metric(metric)
    tracers.shutdown()
    meters.shutdown()
