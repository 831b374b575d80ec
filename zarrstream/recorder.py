"""A run's spans in a file, one line of JSON each: what ``--trace`` of the command line keeps.

Each line is written when its span ends, in one piece, so that a process that is killed leaves what it had done, and
several processes may write into one file.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from zarrstream.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def recording(path: Path, name: str | None = None) -> Iterator[None]:
    """Append the spans that end meanwhile to a file.

    Parameters
    ----------
    path : Path
        The file; what is in it stays.
    name : str, optional
        That of a span around all of them.

    Raises
    ------
    MissingExtraError
        Where OpenTelemetry's SDK is not installed.

    Notes
    -----
    It adds to the process's tracer provider, and sets one where there is none: this is for programs, not for libraries.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "to trace a run OpenTelemetry's SDK is needed: pip install 'zarrstream[otel]'"
        ) from error
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    class Lines(SpanProcessor):
        def on_end(self, span: Any) -> None:  # noqa: ANN401  # the SDK's own
            if not closed:
                os.write(descriptor, json.dumps(_line(span)).encode() + b"\n")

    closed: list[bool] = []
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Lines())
    try:
        with trace.get_tracer(__name__).start_as_current_span(name) if name else nullcontext():
            yield
    finally:
        closed.append(True)  # a provider never gives a processor back
        os.close(descriptor)


def _line(span: Any) -> dict[str, Any]:  # noqa: ANN401  # the SDK's own
    return {
        "name": span.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "process": os.getpid(),
        "start": span.start_time / 1e9,
        "seconds": (span.end_time - span.start_time) / 1e9,
        "failed": not span.status.is_ok and not span.status.is_unset,
        "attributes": dict(span.attributes),
    }
