"""When a store that publishes at `flush()` does so in the midst of a write: seldom enough not to be busy with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# So many acknowledged chunks, or seconds, go into one publication.
BATCH = 256
SECONDS = 5.0
# A zip archive is copied each time: after a publication there is none for four times as long as it took.
_PAUSE = 4


class Publication:
    """The publications of one write.

    Parameters
    ----------
    publish : callable or None
        Makes the store's writes durable; None where they are so when they return.
    """

    def __init__(self, publish: Callable[[], object] | None) -> None:
        self._publish = publish
        self._last = time.monotonic()
        self._took = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether the store publishes at all."""
        return self._publish is not None

    def is_due(self, waiting: int) -> bool:
        """Return whether it is time, with so many chunks waiting for it."""
        since = time.monotonic() - self._last
        return waiting > 0 and since >= _PAUSE * self._took and (waiting >= BATCH or since >= SECONDS)

    def run(self) -> None:
        """Publish, and note how long it took."""
        if self._publish is not None:
            began = time.monotonic()
            self._publish()
            self._last = time.monotonic()
            self._took = self._last - began
