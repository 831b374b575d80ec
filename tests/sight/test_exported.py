"""Seen for real: through OTLP to a receiver, through Prometheus to a dashboard; and what the page says of it all."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.optional import require
from tests.sight import tables
from tests.sight.services import Application, get
from tests.streaming.spies import eventually
from zarrstream import signals

if TYPE_CHECKING:
    from tests.programs import Server

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
BY = re.compile(r"\bby \(([^)]*)\)")
FILTER = re.compile(r"\{(\w+)[^}]*\}")


def children(spans: list[dict[str, Any]], parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the spans of a name right below another."""
    return [span for span in spans if span["parent"] == parent["id"] and span["name"] == name]


def test_a_receiver_has_the_trace(application: Application) -> None:
    """The job's stream, its chunks and the database's operations are one trace, read back by a query."""
    spans = application.spans()
    [job] = [span for span in spans if span["name"] == "job"]
    trace = [span for span in spans if span["trace"] == job["trace"]]
    write, read = children(trace, job, "zarrstream.stream")
    assert [stream["attributes"]["zarrstream.stream.kind"] for stream in (write, read)] == ["write", "slices"]
    assert len(children(trace, write, "zarrstream.chunk.write")) == 16
    chunks = children(trace, read, "zarrstream.chunk.read")
    assert {tuple(chunk["attributes"]["zarrstream.chunk.index"]) for chunk in chunks} == {
        (row, column) for row in range(4) for column in range(4)
    }
    for chunk in chunks:
        [operation] = children(trace, chunk, "zarrstream.store.get")
        assert operation["attributes"]["db.system.name"] == "sqlite"
        assert operation["attributes"]["zarrstream.store.key"] == chunk["attributes"]["zarrstream.chunk.key"]
    assert {span["service"] for span in spans} == {"application"}
    assert {tuple(span["scope"].values()) for span in trace if span is not job} == {("zarrstream", signals.SCHEMA_URL)}
    failed = {span["name"] for span in spans if span["failed"]}
    assert failed == {"zarrstream.store.get", "zarrstream.chunk.read"}
    assert sum(len(span["events"]) for span in spans) == 1


def test_the_dashboard_names_only_what_is_scraped(application: Application) -> None:
    """Each metric and label of the dashboard is one that an application has, and every metric of ours is shown."""
    scrape = application.scrape()
    there = set(re.findall(r"^(zarrstream_\w+)", scrape, re.MULTILINE))
    named = {name for asked in EXPRESSIONS for name in re.findall(r"zarrstream_\w+", FILTER.sub("", BY.sub("", asked)))}
    assert named <= there
    labels = {label for asked in EXPRESSIONS for found in BY.findall(asked) for label in found.split(", ")}
    labels |= {label for asked in EXPRESSIONS for label in FILTER.findall(asked)}
    assert labels <= set(re.findall(r'(\w+)="', scrape))
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in named}
    families = {
        re.sub(r"_total$", "", name) for name in re.findall(r"^# TYPE (zarrstream_\w+?) ", scrape, re.MULTILINE)
    }
    assert shown == {name for name in families if not name.endswith("_created")}
    assert len(shown) == len(signals.METRICS)


@pytest.mark.server
@pytest.mark.slow
def test_prometheus_answers_each_panel(prometheus: Server) -> None:
    """Every expression of the dashboard is one that a Prometheus understands, and finds something for."""

    def found(asked: str) -> bool:
        answer = json.loads(get(prometheus.port, "/api/v1/query", query=asked))
        assert answer["status"] == "success"
        return bool(answer["data"]["result"])

    for expression in EXPRESSIONS:
        asked = expression.replace("$__rate_interval", "10s")
        assert eventually(partial(found, asked), 20), asked


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    """docs/telemetry.md names every span, metric and attribute, as `python -m tests.sight.tables` writes them."""
    text = tables.PAGE.read_text()
    assert all(f"<!-- made: {name} -->" in text for name in tables.tables())
    assert tables.written(text) == text


def test_every_attribute_is_used_and_declared() -> None:
    """What a span or metric may have is declared, and nothing is that none has; names are dotted small letters."""
    declared = {attribute.name for attribute in signals.ATTRIBUTES}
    used = {name for kind in (*signals.SPANS, *signals.METRICS) for name in kind.attributes}
    assert used == declared
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", name) for name in declared)


def test_names_and_units_are_the_conventions() -> None:
    """Own names are under `zarrstream.`; durations are histograms in s, bytes By, counts in braces; few values each."""
    for metric in signals.METRICS:
        assert metric.name.startswith("zarrstream.")
        assert (metric.unit == "s") == metric.name.endswith(".duration") == (metric.instrument == "histogram")
        assert metric.unit in {"s", "By"} or re.fullmatch(r"\{[a-z]+\}", metric.unit)
        assert not {"zarrstream.chunk.index", "zarrstream.chunk.key", "zarrstream.store.key"} & set(metric.attributes)
    assert signals.SECONDS == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    require("opentelemetry.sdk")
    foreign = {name for attribute in signals.ATTRIBUTES if not (name := attribute.name).startswith("zarrstream.")}
    from opentelemetry.semconv.attributes import db_attributes, error_attributes

    assert foreign == {db_attributes.DB_SYSTEM_NAME, db_attributes.DB_OPERATION_NAME, error_attributes.ERROR_TYPE}
