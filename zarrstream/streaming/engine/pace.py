"""When a long loop of Python stops for others: an event loop must not be held by what looks for chunks."""

from __future__ import annotations

from time import monotonic

SECONDS = 0.01  # that a loop goes on at a stretch; what is called within it comes on top


class Pace:
    """Says when a loop has gone on for long enough."""

    def __init__(self) -> None:
        self._until = monotonic() + SECONDS

    @property
    def is_over(self) -> bool:
        """Whether it is time to give way; `begin` follows once others had their turn."""
        return monotonic() >= self._until

    def begin(self) -> None:
        """Begin anew."""
        self._until = monotonic() + SECONDS
