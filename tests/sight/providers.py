"""The API sets a provider once in a process; a test gives its back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream import telemetry

if TYPE_CHECKING:
    import pytest


def give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let providers be set, until the test ends."""
    from opentelemetry import metrics, trace
    from opentelemetry.util._once import Once

    for module, name in ((trace, "_TRACER_PROVIDER"), (metrics._internal, "_METER_PROVIDER")):
        monkeypatch.setattr(module, name, None)
        monkeypatch.setattr(module, f"{name}_SET_ONCE", Once())
    # The instruments are kept for the process, and belong to one provider.
    monkeypatch.setattr(telemetry, "_instruments", telemetry.cache(telemetry._instruments.__wrapped__))
