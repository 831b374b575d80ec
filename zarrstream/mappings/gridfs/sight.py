"""What has been seen of a place, so that its loss is told from its emptiness.

A database that is dropped, or mistyped, or behind a fresh server, reads as empty in MongoDB, without any error; and
zarr takes "not there" for "this chunk is the fill value".
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from zarrstream.errors import StoreUnavailableError
from zarrstream.mappings.absence import SeenNodes, documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_SECONDS = 1.0  # between two looks of a writer, which is told where it writes by each of its reads anyway


class Sight:
    """What one mapping has seen, and how it makes sure that what it misses is not lost.

    Parameters
    ----------
    place : str
        What messages call it.
    existing : callable
        Which of some keys are there.
    identity : callable
        What tells the collection from any other one of its name; None where there is none.
    """

    def __init__(
        self, place: str, existing: Callable[[list[str]], set[str]], identity: Callable[[], str | None]
    ) -> None:
        self._place = place
        self._existing = existing
        self._ask_identity = identity
        self._nodes = SeenNodes()
        self._identity: str | None = None
        self._looked = float("-inf")
        self._probes = _Probes()

    def state(self) -> tuple[str | None, tuple[str, ...]]:
        """Return what a pickled copy has to know."""
        return self._identity, tuple(self._nodes)

    def restore(self, state: tuple[str | None, tuple[str, ...]]) -> None:
        """Take over what another mapping has seen."""
        self._identity, nodes = state
        self._nodes = SeenNodes(nodes)

    def forget(self) -> None:
        """Begin anew: a place that is empty then is empty."""
        self._identity, self._nodes, self._looked = None, SeenNodes(), float("-inf")

    # -- what is seen -------------------------------------------------------------------------------------------------

    def saw(self, key: str, value: object = b"") -> None:
        """Remember that a key is there, and the nodes that its value tells of; see `SeenNodes.saw`."""
        self._nodes.saw(key, value)
        if self._identity is None:
            self._identity = self._ask_identity()

    def removed(self, key: str) -> None:
        """Forget a node that this mapping itself has removed."""
        self._nodes.removed(key)

    def removed_under(self, path: str) -> None:
        """Forget the nodes beneath a path, and the one at it."""
        self._nodes.removed_under(path)

    def look(self) -> None:
        """Make sure, once a second, that what is written goes where it went before."""
        if time.monotonic() - self._looked > _SECONDS:
            self._same_collection()
            self._looked = time.monotonic()

    # -- what is missed -----------------------------------------------------------------------------------------------

    def missed(self, keys: Iterable[str]) -> None:
        """Return if keys that were not found are absent indeed.

        Raises
        ------
        StoreUnavailableError
            The place is lost: the metadata of the node that a key belongs to, or the collection, was there and is not.
        """
        nodes = {node for key in keys for node in [self._nodes.node_of(key)] if node is not None}
        lost = self._probes.join(nodes, self._probe)
        if lost & nodes:
            node = min(lost & nodes)
            raise StoreUnavailableError(
                f"{self._place} is lost: the metadata of {node!r} were there before, and are not now. "
                f"Restore them, or close() the store to begin anew"
            )

    def _probe(self, nodes: set[str]) -> set[str]:
        """Return the nodes that are lost, of those that somebody waits for."""
        names = {key: node for node in nodes for key in documents(node)}
        lost = nodes - {names[key] for key in self._existing(list(names))} if nodes else set()
        # Always: another collection of this name may hold a node of the same name.
        self._same_collection()
        return lost

    def _same_collection(self) -> None:
        known, now = self._identity, self._ask_identity()
        if known is None:
            self._identity = now
        elif now != known:
            raise StoreUnavailableError(
                f"{self._place} is lost: its collection was there before, and is "
                f"{'another one' if now else 'not there'} now. Restore it, or close() the store to begin anew"
            )


class _Probes:
    """Probes that begin after the question; each is shared by all who asked while the one before it ran."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._running = threading.Lock()
        self._next = _Flight()

    def join(self, nodes: set[str], probe: Callable[[set[str]], set[str]]) -> set[str]:
        """Return what a probe of these nodes (and of others') found that began after this call."""
        if self._process != os.getpid():
            self._reset()  # a fork among waiting threads, of which the child has none
        with self._guard:
            flight = self._next
            flight.asked += 1
            flight.wanted |= nodes
        with self._running:
            if not flight.over:
                with self._guard:
                    self._next = _Flight()  # who comes from now on waits for the next one
                try:
                    flight.found = probe(flight.wanted)
                except Exception as error:  # noqa: BLE001  # all who share the probe share its failure
                    flight.failure = error
                flight.over = True
        if flight.failure is not None:
            raise flight.failure
        return flight.found


class _Flight:
    """One probe, for all who wait for it."""

    def __init__(self) -> None:
        self.asked = 0
        self.wanted: set[str] = set()
        self.found: set[str] = set()
        self.over = False
        self.failure: Exception | None = None
