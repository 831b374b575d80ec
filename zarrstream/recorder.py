"""A run's spans in a file, one line of JSON each: what ``--trace`` of the command line keeps.

Each line is written when its span ends, in one piece, so that a process that is killed leaves what it had done, and
several processes may write into one file.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarrstream.concurrency.fork import on_fork
from zarrstream.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("zarrstream")


@contextmanager
def recording(path: str | os.PathLike[str], name: str | None = None) -> Iterator[None]:
    """Append the spans that end meanwhile to a file.

    Parameters
    ----------
    path : str or os.PathLike
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
    A file that cannot be written any more ends the trace with a warning, and nothing else.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "to trace a run OpenTelemetry's SDK is needed: pip install 'zarrstream[otel]'"
        ) from error
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider: Any = trace.get_tracer_provider()
    file = _File(Path(path))
    try:
        files = _listen(provider, SpanProcessor)
        files.add(file)
        with trace.get_tracer(__name__).start_as_current_span(name) if name else nullcontext():
            yield
    finally:
        file.close()
        files.discard(file)


class _File:
    """The file of one recording. What fails in here costs the trace, and never what is traced.

    Parameters
    ----------
    path : Path
        Where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # the descriptor's number may be another file's as soon as it is closed
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._open = True

    def write(self, span: Any) -> None:  # noqa: ANN401  # the SDK's own
        """Append a span's line; the first that cannot be written is the last."""
        try:
            line = json.dumps(_line(span), default=str).encode() + b"\n"
            with self._lock:
                if not self._open:
                    return
                if os.write(self._descriptor, line) == len(line):
                    return
                self._end()
            reason = "the disk is full"
        except (OSError, TypeError, ValueError) as error:  # a full disk, a value JSON has no word for: told below
            self.close()
            reason = str(error)
        logger.warning("the trace %s ends here: %s", self._path, reason)

    def renew(self) -> None:
        """Have a lock of one's own, in a fork's child: the copy may be held by nobody who is there."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


_recordings: weakref.WeakKeyDictionary[Any, set[_File]] = weakref.WeakKeyDictionary()


def _listen(provider: Any, base: type) -> set[_File]:  # noqa: ANN401  # the SDK's own
    """Return the files that a provider's spans go to. It gets one processor, once: it never gives one back."""
    files = _recordings.get(provider)
    if files is None:
        files = _recordings[provider] = set()
        provider.add_span_processor(_processor(files, base))
    return files


def _after_fork_in_child() -> None:
    for files in _recordings.values():
        for file in files:
            file.renew()


on_fork(95, child=_after_fork_in_child)


def _processor(files: set[_File], base: type) -> Any:  # noqa: ANN401  # the SDK's own
    class Lines(base):  # type: ignore[misc]  # the SDK is imported where it is used
        def on_end(self, span: Any) -> None:  # noqa: ANN401  # the SDK's own
            for file in tuple(files):
                file.write(span)

    return Lines()


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
