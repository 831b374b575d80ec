"""Whether what was told keeps to `zarrstream.signals` and to OpenTelemetry's conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarrstream import signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ATTRIBUTES = {attribute.name: attribute for attribute in signals.ATTRIBUTES}
METRICS = {metric.name: metric for metric in signals.METRICS}
SPANS = {kind.name: kind for kind in signals.SPANS}
TYPES = {"string": str, "int": int, "double": float, "boolean": bool}


def check_span(span: Any) -> None:
    """A span has its name, and only attributes that are declared for it, of the declared type."""
    check_attributes(span.attributes, SPANS[signals.span_kind(span.name)].attributes)
    failed = span.status.status_code.name == "ERROR"
    assert failed == ("error.type" in span.attributes)
    assert span.end_time >= span.start_time


def check_metric(metric: Any) -> None:
    """A metric has its unit, kind, advised buckets, and only the attributes that are declared for it."""
    declared = METRICS[metric.name]
    assert (metric.unit, metric.description) == (declared.unit, declared.brief)
    kinds = {"histogram": "Histogram", "counter": "Sum", "up_down_counter": "Sum"}
    assert type(metric.data).__name__ == kinds[declared.instrument]
    if declared.instrument != "histogram":
        assert metric.data.is_monotonic == (declared.instrument == "counter")
    for point in metric.data.data_points:
        check_attributes(point.attributes, declared.attributes)
        if declared.instrument == "histogram":
            assert tuple(point.explicit_bounds) == signals.SECONDS


def check_attributes(found: Mapping[str, Any], declared: Iterable[str]) -> None:
    """Each is declared, has its type, and one of its values where these are listed."""
    assert set(found) <= set(declared)
    for name, value in found.items():
        attribute = ATTRIBUTES[name]
        one = attribute.type.removesuffix("[]")
        values = value if attribute.type != one else (value,)
        assert isinstance(values, tuple)
        assert {type(item) for item in values} <= {TYPES[one]}, name
        assert not attribute.values or value in attribute.values, name
