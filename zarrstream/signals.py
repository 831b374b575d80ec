"""What zarrstream tells OpenTelemetry: each span, metric and attribute, by name, unit and meaning. Only words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: The version of OpenTelemetry's semantic conventions whose names (``db.*``, ``error.type``) are used.
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
#: The boundaries that the conventions advise for the duration of a database client's operation, in seconds.
SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

STREAM: Final = "zarrstream.stream"
WAIT: Final = "zarrstream.stream.wait"
CHUNK_READ: Final = "zarrstream.chunk.read"
CHUNK_WRITE: Final = "zarrstream.chunk.write"
STORE: Final = "zarrstream.store"
OPERATION: Final = "zarrstream.store.operation"

CHUNK_DURATION: Final = "zarrstream.chunk.duration"
STAGE_DURATION: Final = "zarrstream.chunk.stage.duration"
CHUNK_IO: Final = "zarrstream.chunk.io"
OPERATION_DURATION: Final = "zarrstream.store.operation.duration"
RETRIES: Final = "zarrstream.retries"
CACHE_REQUESTS: Final = "zarrstream.cache.requests"
IN_FLIGHT: Final = "zarrstream.stream.in_flight"
BUFFER_USAGE: Final = "zarrstream.stream.buffer.usage"
BACKPRESSURE: Final = "zarrstream.stream.backpressure.duration"
LAG: Final = "zarrstream.stream.lag"


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Parameters
    ----------
    name : str
        Its name.
    type : str
        ``"string"``, ``"int"``, ``"double"``, ``"boolean"``, or one of these with ``[]``.
    brief : str
        What it says.
    values : tuple of str
        All that it can be, where that is a short list.
    """

    name: str
    type: Literal["string", "int", "double", "boolean", "int[]", "string[]"]
    brief: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    name, unit, brief : str
        Name, UCUM unit and meaning.
    instrument : str
        What kind of instrument.
    attributes : tuple of str
        Which attributes it may have: names of few values each, never a chunk's.
    """

    name: str
    instrument: Literal["histogram", "counter", "up_down_counter"]
    unit: str
    brief: str
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class SpanKind:
    """One kind of span.

    Parameters
    ----------
    name, brief : str
        Name and meaning.
    attributes : tuple of str
        Which attributes it may have.
    """

    name: str
    brief: str
    attributes: tuple[str, ...]


ATTRIBUTES: Final = (
    Attribute("zarrstream.stream.kind", "string", "the function that streams", ("chunks", "slices", "write")),
    Attribute(
        "zarrstream.stream.outcome",
        "string",
        "how it ended; closed: left early",
        ("completed", "closed", "error"),
    ),
    Attribute("zarrstream.stream.chunks", "int", "chunks that were yielded, or stored and acknowledged"),
    Attribute("zarrstream.stream.failed", "int", "chunks that were given up"),
    Attribute("zarrstream.stream.decoded_bytes", "int", "decoded bytes of its chunks"),
    Attribute("zarrstream.stream.stored_bytes", "int", "encoded bytes that came or went"),
    Attribute("zarrstream.array.path", "string", "the array's path in its store"),
    Attribute("zarrstream.array.codecs", "string[]", "the names of the array's codecs, outermost last"),
    Attribute("zarrstream.store", "string", "the kind of store: the scheme of its URL, or its class"),
    Attribute("zarrstream.chunk.index", "int[]", "coordinates in the array's chunk grid"),
    Attribute("zarrstream.chunk.key", "string", "the key of the stored object; of a sharded array, the shard's"),
    Attribute("zarrstream.chunk.stored_bytes", "int", "encoded bytes of the chunk"),
    Attribute("zarrstream.chunk.decoded_bytes", "int", "decoded bytes of the chunk"),
    Attribute("zarrstream.chunk.missing", "boolean", "reading: not stored; writing: equal to the fill value, elided"),
    Attribute("zarrstream.chunk.fetch.duration", "double", "seconds that its bytes took to come"),
    Attribute("zarrstream.chunk.decode.duration", "double", "seconds of decoding; of a run, its share"),
    Attribute("zarrstream.chunk.encode.duration", "double", "seconds of encoding; of a run, its share"),
    Attribute("zarrstream.chunk.store.duration", "double", "seconds that the store took to acknowledge it"),
    Attribute("zarrstream.chunk.stage", "string", "a part of a chunk's way", ("fetch", "decode", "encode", "store")),
    Attribute("zarrstream.attempts", "int", "how often it was tried; only where that was more than once"),
    Attribute("zarrstream.cache.hit", "boolean", "whether a cache had it"),
    Attribute("zarrstream.io.direction", "string", "which way the bytes go", ("read", "write")),
    Attribute(
        "zarrstream.stream.waiting",
        "string",
        "who waits: the caller (consumer, or source) or the stream (its workers)",
        ("caller", "stream"),
    ),
    Attribute("zarrstream.store.operation", "string", "zarr's door: get, set, delete, list, …"),
    Attribute("zarrstream.store.key", "string", "the key or prefix that it is about"),
    Attribute("zarrstream.store.bytes", "int", "bytes that it returned or was given"),
    Attribute("zarrstream.store.keys", "int", "keys that a listing or a batch had"),
    Attribute("zarrstream.store.missing", "boolean", "whether the key was absent, which is no error"),
    Attribute("db.system.name", "string", "of a database: which kind"),
    Attribute("db.operation.name", "string", "of a database: the operation"),
    Attribute("error.type", "string", "on failure only: the exception's class"),
)

_FLOW = ("zarrstream.io.direction", "zarrstream.store")
METRICS: Final = (
    Metric(
        CHUNK_DURATION,
        "histogram",
        "s",
        "From the start of a chunk's fetch to the end of its decoding, or of its encoding to its acknowledgement",
        (*_FLOW, "error.type"),
    ),
    Metric(
        STAGE_DURATION,
        "histogram",
        "s",
        "What fetching, decoding, encoding and storing a chunk took",
        (*_FLOW, "zarrstream.chunk.stage"),
    ),
    Metric(CHUNK_IO, "counter", "By", "Encoded bytes of chunks that came or went", _FLOW),
    Metric(
        OPERATION_DURATION,
        "histogram",
        "s",
        "What a call of a traced store took",
        ("zarrstream.store.operation", "zarrstream.store", "db.system.name", "error.type"),
    ),
    Metric(
        RETRIES, "counter", "{retry}", "Attempts after the first", ("zarrstream.store.operation", "zarrstream.store")
    ),
    Metric(CACHE_REQUESTS, "counter", "{request}", "What a cache was asked for", ("zarrstream.cache.hit",)),
    Metric(IN_FLIGHT, "up_down_counter", "{chunk}", "Chunks under way, or waiting for the consumer", _FLOW),
    Metric(BUFFER_USAGE, "up_down_counter", "By", "Decoded bytes of the chunks in flight", _FLOW),
    Metric(
        BACKPRESSURE,
        "histogram",
        "s",
        "How long the caller waited for the stream, or all of the stream's workers for the caller",
        (*_FLOW, "zarrstream.stream.waiting"),
    ),
    Metric(LAG, "up_down_counter", "{chunk}", "Chunks pulled from a source and not yet acknowledged", _FLOW),
)

_OF_STREAM = ("zarrstream.stream.kind", "zarrstream.array.path", "zarrstream.array.codecs", "zarrstream.store")
_OF_CHUNK = (
    "zarrstream.chunk.index",
    "zarrstream.chunk.key",
    "zarrstream.chunk.stored_bytes",
    "zarrstream.chunk.decoded_bytes",
    "zarrstream.chunk.missing",
    "zarrstream.attempts",
)
SPANS: Final = (
    SpanKind(
        STREAM,
        "One pass of a stream",
        (
            *_OF_STREAM,
            "db.system.name",
            "zarrstream.stream.outcome",
            "zarrstream.stream.chunks",
            "zarrstream.stream.failed",
            "zarrstream.stream.decoded_bytes",
            "zarrstream.stream.stored_bytes",
            "error.type",
        ),
    ),
    SpanKind(
        CHUNK_READ,
        "One chunk, from the start of its fetch to the end of its decoding",
        (
            *_OF_CHUNK,
            "zarrstream.chunk.fetch.duration",
            "zarrstream.chunk.decode.duration",
            "zarrstream.cache.hit",
            "error.type",
        ),
    ),
    SpanKind(
        CHUNK_WRITE,
        "One chunk, from the start of its encoding to its acknowledgement",
        (*_OF_CHUNK, "zarrstream.chunk.encode.duration", "zarrstream.chunk.store.duration", "error.type"),
    ),
    SpanKind(
        WAIT, "The caller waits for the stream, or all of its workers for the caller", ("zarrstream.stream.waiting",)
    ),
    SpanKind(
        OPERATION,
        "One call of a traced store; the span's name ends with the operation: zarrstream.store.get",
        (
            "zarrstream.store.operation",
            "zarrstream.store",
            "zarrstream.store.key",
            "zarrstream.store.bytes",
            "zarrstream.store.keys",
            "zarrstream.store.missing",
            "zarrstream.attempts",
            "zarrstream.cache.hit",
            "db.system.name",
            "db.operation.name",
            "error.type",
        ),
    ),
)


def span_kind(name: str) -> str:
    """Return which of `SPANS` a span's name belongs to: a store's operations are one kind."""
    return OPERATION if name.startswith("zarrstream.store.") else name
