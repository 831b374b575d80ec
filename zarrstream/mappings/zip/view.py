"""What an archive's mappings show: a published version, and above it what is pending."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator

    from zarrstream.mappings.zip.directory import Directory
    from zarrstream.mappings.zip.pending import Spill

_ABSENT = object()


class View:
    """What the mapping shows: a version of the archive, and what is pending above it.

    A reader takes the view once and works on it: what replaces it meanwhile does not disturb him.

    Parameters
    ----------
    base : Directory
        The published version.
    pending : dict, optional
        What was written, and None for what was deleted.
    spill : Spill, optional
        Where the written entries are.
    inherited : bool, optional
        Whether what is pending is the parent's, from before a fork: to be read, never to be published.
    """

    def __init__(
        self,
        base: Directory,
        pending: dict[str, zipfile.ZipInfo | None] | None = None,
        spill: Spill | None = None,
        *,
        inherited: bool = False,
    ) -> None:
        self.base = base
        self.pending = {} if pending is None else pending
        self.spill = spill
        self.inherited = inherited
        # For what has to be seen whole: a batch, a listing. Single keys are looked up without it. Re-entrant, since a
        # signal handler may read in the midst of a write of its own thread.
        self._whole = threading.RLock()
        self._names: list[str] | None = None

    def find(self, key: str) -> zipfile.ZipInfo | None:
        """Return the entry of a key; None where it is absent."""
        info = self.pending.get(key, _ABSENT)
        return self.base.entries.get(key) if info is _ABSENT else info  # type: ignore[return-value]  # not the mark

    def value(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return the bytes ``start`` to ``stop`` of a value; None where the key is absent."""
        info = self.find(key)
        return None if info is None else self._value(info, start, stop)

    def values(self, keys: list[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there, all as they were at one moment."""
        with self._whole:
            found = [(key, self.find(key)) for key in keys]
        return {key: self._value(info) for key, info in found if info is not None}

    def names(self) -> list[str]:
        """Return every key, sorted. The list is never changed."""
        with self._whole:
            if self._names is None:
                kept = (key for key in self.base.entries if key not in self.pending)
                self._names = sorted([*kept, *(key for key, info in self.pending.items() if info is not None)])
            return self._names

    def names_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with a prefix, sorted."""
        names = self.names()
        for at in range(bisect_left(names, prefix), len(names)):
            if not names[at].startswith(prefix):
                return
            yield names[at]

    def put(self, changes: dict[str, zipfile.ZipInfo | None]) -> None:
        """Note what was written, and None for what was deleted. The caller holds the archive's lock."""
        with self._whole:
            self._put(changes)

    def _put(self, changes: dict[str, zipfile.ZipInfo | None]) -> None:
        # A function of its own: CPython 3.12 and 3.13 leave a `with` without its exit where an exception of a signal
        # handler comes as a loop in it goes round from a condition.
        replaced = [self.pending.get(key) for key in changes]
        if any((self.find(key) is None) != (info is None) for key, info in changes.items()):
            self._names = None
        # All of them in one step of the interpreter: no reader sees half of a batch, and no exception of a signal
        # handler leaves half of it. What follows changes nothing that can be seen.
        self.pending.update(changes)
        for key in changes:
            if self.pending[key] is None and key not in self.base.entries:
                del self.pending[key]
        if self.spill is not None:
            for info in replaced:
                self.spill.forget(info)

    def _value(self, info: zipfile.ZipInfo, start: int = 0, stop: int | None = None) -> bytes:
        # An entry is of one file or of the other, whatever is written to `pending` meanwhile.
        file = self.base.file if info is self.base.entries.get(info.filename) else self.spill
        assert file is not None  # noqa: S101  # told to the type checker: it has this entry
        return file.value(info, start, stop)
