"""One call of a store, as telemetry sees it: a span and a duration."""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from zarrstream import signals, telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator


class Call:
    """One call of a store, as telemetry sees it.

    Parameters
    ----------
    about : dict
        What is known of the store.
    operation : str
        Which of zarr's doors.
    key : str
        The key or prefix.
    remote : bool
        Whether another process answers.
    """

    def __init__(self, about: dict[str, str], operation: str, key: str, *, remote: bool) -> None:
        self.found: dict[str, Any] = {}
        self._sight = telemetry.sight()
        self._span: Any = None
        self._note = telemetry.Note()
        self._seconds = 0.0
        if self._sight is None:
            return
        self._metric = {**about, "zarrstream.store.operation": operation}
        known = {**self._metric, "zarrstream.store.key": key}
        if "db.system.name" in about:
            known["db.operation.name"] = operation
        self._span = self._sight.start(f"{signals.STORE}.{operation}", known, remote=remote)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Surround a part of it that the store works on."""
        if self._sight is None:
            yield
            return
        since = perf_counter()
        try:
            with telemetry.under(self._span), telemetry.noting(self._note):
                yield
        finally:
            self._seconds += perf_counter() - since

    def end(self, error: BaseException | None) -> None:
        """Tell what came of it. An absent key is no failure, and being cancelled is none."""
        if self._sight is None:
            return
        if telemetry.is_absent(error):
            self.found["zarrstream.store.missing"] = True
            error = None
        failed = isinstance(error, Exception)
        about = {"error.type": telemetry.error_type(error)} if failed and error else {}
        self._sight.measure(signals.OPERATION_DURATION, self._seconds, {**self._metric, **about})
        if self._span is not None:
            self._span.set_attributes({**self.found, **self._note.attributes})
            if failed and error is not None:
                telemetry.fail(self._span, error)
            self._span.end()
