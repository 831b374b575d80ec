"""The seam to OpenTelemetry: the only file that imports it, and only where somebody set a provider.

zarrstream sets none itself. What is told is in `zarrstream.signals`. `sight` answers whether anybody listens: streams
ask once for each pass, and where nobody does they run without a line of this.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from traceback import format_exception
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from zarrstream import signals
from zarrstream.concurrency.context import give_back
from zarrstream.errors import ChunkError
from zarrstream.identity import kind_of as kind_of  # noqa: PLC0414  # who counts a retry says so of which kind of store
from zarrstream.notes import Note as Note  # noqa: PLC0414  # as above
from zarrstream.notes import noted
from zarrstream.notes import noting as noting  # noqa: PLC0414  # as above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

P = ParamSpec("P")
T = TypeVar("T")
_NAME = "zarrstream"
_attaching: ContextVar[None] = ContextVar("zarrstream_attaching", default=None)
# The API loads the provider that one of these names when it is first asked for it.
_ASKED_FOR = {"OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER"} & os.environ.keys()
_RECORDED = "_zarrstream_recorded"
_NOBODY = {"NoOpMeterProvider", "_ProxyMeterProvider"}  # by name: the second class is private


def retried(operation: str, system: str) -> None:
    """Count an attempt after the first, and note it on the chunk or operation that is under way.

    Parameters
    ----------
    operation : str
        What is tried again: ``"get"``, ``"set"``, …
    system : str
        The kind of store: ``"s3"``, ``"mongodb"``, …
    """
    for note in noted():
        note.attempts += 1
    if _api("metrics") is not None:
        _instruments()[signals.RETRIES](1, {"zarrstream.store.operation": operation, "zarrstream.store": system})


def cache_asked(hit: bool) -> None:  # noqa: FBT001  # the one thing that it says
    """Count what a cache was asked for, and note it on the chunk or operation that is under way."""
    for note in noted():
        note.cache_hit = hit
    if _api("metrics") is not None:
        _instruments()[signals.CACHE_REQUESTS](1, {"zarrstream.cache.hit": hit})


@dataclass(frozen=True)
class Sight:
    """Who listens.

    Attributes
    ----------
    tracer : Tracer or None
        What makes spans, where a tracer provider is set.
    meters : mapping or None
        What takes a value and its attributes, by the metric's name, where a meter provider is set.
    """

    tracer: Tracer | None
    meters: Mapping[str, Callable[..., None]] | None

    def start(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        within: Context | None = None,
        begin: int | None = None,
        remote: bool = False,
    ) -> Span | None:
        """Begin a span; None where nobody takes spans.

        Parameters
        ----------
        name : str
            Its name.
        attributes : mapping, optional
            What is known of it by now.
        within : Context, optional
            Where it belongs; default the current context.
        begin : int, optional
            Nanoseconds since the epoch, where it began earlier.
        remote : bool
            Whether it calls another process.
        """
        if self.tracer is None:
            return None
        from opentelemetry.trace import SpanKind

        kind = SpanKind.CLIENT if remote else SpanKind.INTERNAL
        return self.tracer.start_span(name, within, kind, attributes, start_time=begin, record_exception=False)

    def measure(self, metric: str, value: float, attributes: Mapping[str, Any]) -> None:
        """Give a value to a metric, where somebody takes metrics."""
        if self.meters is not None:
            self.meters[metric](value, attributes)


@contextmanager
def under(span: Span | None) -> Iterator[None]:
    """Make a span the current one; None leaves the one that is."""
    if span is None:
        yield
        return
    from opentelemetry import trace

    with _attached(trace.set_span_in_context(span)):
        yield


def context_of(span: Span | None) -> Context | None:
    """Return the context in which a span is the current one; None for that of whoever asks."""
    if span is None:
        return None
    from opentelemetry import trace

    return trace.set_span_in_context(span)


def headers() -> dict[str, str]:
    """Return the current context as W3C's headers (``traceparent`` and others); none where nobody listens."""
    found: dict[str, str] = {}
    if _api("trace") is not None:
        import_module("opentelemetry.propagate").inject(found)
    return found


@contextmanager
def below(found: Mapping[str, str]) -> Iterator[None]:
    """Make the span that some `headers` name the current one."""
    if not found:
        yield
        return
    from opentelemetry import propagate

    with _attached(propagate.extract(found)):
        yield


@contextmanager
def _attached(found: Context) -> Iterator[None]:
    """Make a context the current one; a coroutine that is collected as garbage leaves the one that it ends in alone."""
    from opentelemetry import context

    here, token = _attaching.set(None), context.attach(found)
    try:
        yield
    finally:
        if give_back(_attaching, here):  # OpenTelemetry would log an error where it is not
            context.detach(token)


class Carried:
    """A callable that takes the context in which it was made along: see `carry`.

    Parameters
    ----------
    work : callable
        What is called.
    """

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work, self._headers = work, headers()

    def __call__(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # those of what it calls
        """Call it where the span that was current is current again."""
        with below(self._headers):
            return self._work(*args, **options)


def carry(work: Callable[P, T]) -> Callable[P, T]:
    """Return a callable that does the same in another thread or process, below the span that is current now.

    A context follows neither an executor's ``submit`` nor a task to a cluster's worker. Spans that are made there need
    a provider of their own, as every process does.

    Parameters
    ----------
    work : callable
        A function that pickles, where it goes to another process.

    Returns
    -------
    callable
        It pickles where ``work`` does.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as pool:
    ...     pool.submit(carry(sum), [1, 2]).result()
    3
    """
    return cast("Callable[P, T]", Carried(work))


def fail(span: Span | None, error: BaseException) -> None:
    """Tell on a span that it failed. An exception is recorded once, on the innermost span that it left.

    It is an event of the span; a log event as well, or instead, where ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` is
    ``logs/dup`` or ``logs``, as the semantic conventions have it.
    """
    if span is None or not span.is_recording():
        return
    from opentelemetry.trace import Status, StatusCode

    cause = _behind(error)
    span.set_attribute("error.type", error_type(error))
    span.set_status(Status(StatusCode.ERROR, str(error)))
    if not getattr(cause, _RECORDED, False):
        opted = os.environ.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN")
        if opted not in ("logs", "logs/dup") or not _log(span, cause) or opted == "logs/dup":
            span.record_exception(cause)
        with suppress(AttributeError):  # of an exception with slots
            setattr(cause, _RECORDED, True)


def _log(span: Any, error: BaseException) -> bool:  # noqa: ANN401  # the SDK's own, which has a name
    """Emit an exception as a log event of a span; False where the API is too old for events."""
    logs = import_module("opentelemetry._logs")
    try:
        logs.get_logger(_NAME, _version(), schema_url=signals.SCHEMA_URL).emit(
            context=context_of(span),
            severity_number=logs.SeverityNumber.ERROR,
            event_name=f"{getattr(span, 'name', _NAME)}.exception",
            attributes={
                "exception.type": _name(type(error)),
                "exception.message": str(error),
                "exception.stacktrace": "".join(format_exception(error)),
            },
        )
    except TypeError:
        return False
    return True


def is_absent(error: BaseException | None) -> bool:
    """Whether an exception says no more than that a key is not there: zarr's stores raise it so."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_absent(inner) for inner in error.exceptions)
    return isinstance(error, (FileNotFoundError, KeyError))


def _behind(error: BaseException) -> BaseException:
    return error.__cause__ or error if isinstance(error, ChunkError) else error


def error_type(error: BaseException) -> str:
    """Return what ``error.type`` says: the class of the exception, for a chunk or group that of what befell it."""
    error = _behind(error)
    while isinstance(error, BaseExceptionGroup):
        error = _behind(error.exceptions[0])
    return _name(type(error))


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def sight() -> Sight | None:
    """Return who listens; None where nobody does. It costs up to two microseconds: ask once for each stream."""
    tracer, meters = _tracer(), _meters()
    return None if tracer is None and meters is None else Sight(tracer, meters)


def _tracer() -> Tracer | None:
    if (trace := _api("trace")) is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    tracer = provider.get_tracer(_NAME, _version(), signals.SCHEMA_URL)
    return None if isinstance(tracer, trace.NoOpTracer) else tracer


def _meters() -> Mapping[str, Callable[..., None]] | None:
    metrics = _api("metrics")
    if metrics is None or type(metrics.get_meter_provider()).__name__ in _NOBODY:
        return None
    return _instruments()


def _api(name: str) -> Any:  # noqa: ANN401  # a module
    """Return a module of the API; None where nobody imported it, so that nobody can have set a provider."""
    module = sys.modules.get(f"opentelemetry.{name}")
    return import_module(f"opentelemetry.{name}") if module is None and _ASKED_FOR else module


@cache
def _instruments() -> Mapping[str, Callable[..., None]]:
    """Make the instruments, once; the API's own stand-ins turn into real ones when a provider is set."""
    from opentelemetry import metrics

    meter = metrics.get_meter(_NAME, _version(), schema_url=signals.SCHEMA_URL)
    made: dict[str, Callable[..., None]] = {}
    for metric in signals.METRICS:
        if metric.instrument == "histogram":
            histogram = meter.create_histogram(
                metric.name, metric.unit, metric.brief, explicit_bucket_boundaries_advisory=signals.SECONDS
            )
            made[metric.name] = histogram.record
        else:
            counter = getattr(meter, f"create_{metric.instrument}")(metric.name, metric.unit, metric.brief)
            made[metric.name] = counter.add
    return made


@cache
def _version() -> str:
    return version("zarrstream")
