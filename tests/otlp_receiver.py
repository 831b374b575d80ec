"""A receiver of OpenTelemetry's protocol, and a way to ask it: ``python -m tests.otlp_receiver PORT QUERY_PORT``.

It takes spans and metrics over gRPC, through the protocol's own service stubs. ``GET /spans`` and ``GET /metrics`` on
the second port tell as JSON what came.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

received: dict[str, list[dict[str, Any]]] = {"spans": [], "metrics": []}


def plain(attributes: Any) -> dict[str, Any]:
    """Return attributes as JSON has them."""

    def value(any_value: Any) -> Any:
        kind = any_value.WhichOneof("value")
        found = getattr(any_value, kind)
        return [value(item) for item in found.values] if kind == "array_value" else found

    return {pair.key: value(pair.value) for pair in attributes}


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans."""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    about = {
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        "attributes": plain(span.attributes),
                        "failed": span.status.code == span.status.STATUS_CODE_ERROR,
                        "events": [event.name for event in span.events],
                        "scope": {"name": scope.scope.name, "schema": scope.schema_url},
                        "service": plain(resource.resource.attributes).get("service.name"),
                    }
                    received["spans"].append(about)
        return trace_service_pb2.ExportTraceServiceResponse()


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes metrics."""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                received["metrics"] += [{"name": metric.name, "unit": metric.unit} for metric in scope.metrics]
        return metrics_service_pb2.ExportMetricsServiceResponse()


class Query(BaseHTTPRequestHandler):
    """Answers what was asked."""

    def do_GET(self) -> None:  # the standard library's name
        body = json.dumps(received.get(self.path.partition("?")[0].strip("/"), {})).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


def main(port: str, query_port: str) -> None:
    """Serve until this process is ended."""
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    ThreadingHTTPServer(("127.0.0.1", int(query_port)), Query).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
