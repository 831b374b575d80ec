"""One archive in this process: what all mappings of its path share, the pending values above all."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from zarrstream.concurrency.fork import on_fork
from zarrstream.errors import StoreError, StoreUnavailableError
from zarrstream.mappings.zip.directory import Directory, identity_of, read_directory, reopened
from zarrstream.mappings.zip.lock import WriterLock
from zarrstream.mappings.zip.pending import Spill, new_entry
from zarrstream.mappings.zip.publish import put_in_place, remove, sync_folder, write_anew
from zarrstream.mappings.zip.view import View

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

    from zarrstream.mappings.zip.directory import Identity


class Archive:
    """The state of one archive. See `zarrstream.mappings.zip.ZipMapping` for what it promises.

    Parameters
    ----------
    path : str
        The absolute path, links resolved.

    Attributes
    ----------
    lock : threading.RLock
        Held by whoever writes, publishes or opens; readers of an open archive need none.
    users : int
        How many mappings share it.
    seen : bool
        Whether the archive has been there: if so, its absence is an error, not emptiness.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.users = 0
        self.seen = False
        folder, name = os.path.split(path)
        self._beside = os.path.join(folder, f".{name}.zarrstream-")  # noqa: PTH118  # paths are plain text
        self._writer = WriterLock(f"{self._beside}lock", path)
        self._view: View | None = None
        self._forked = False
        self._at_exit: Finalize | None = None
        # All three outlive an exception of a signal handler in the midst of a call, and tell the next call what is left
        # to do: the new version that may be in place already, whether the folder is to be synchronised, and whether a
        # writer that has just taken the lock has prepared itself.
        self._coming: Directory | None = None
        self._unsynced = False
        self._prepared = False

    def is_used(self) -> bool:
        """Whether a mapping is there."""
        return self.users > 0

    def view(self) -> View:
        """Return what is there now.

        Raises
        ------
        StoreUnavailableError
            The archive was there and is gone; or another program has changed it under what is pending.
        """
        view, there = self._view, identity_of(self.path)
        if view is None or there != view.base.identity or self._forked:
            return self._renewed()
        return view

    def expect(self) -> None:
        """Take note that the archive was there, where another process saw it."""
        with self.lock:
            self.seen = True
            if self._view is not None and self._view.base.is_new and not self._view.pending:
                self._view = None

    def write(self, items: dict[str, bytes | memoryview]) -> None:
        """Make values pending: all, or none."""
        entries = [(new_entry(key, value), value) for key, value in items.items()]  # the checksums need no lock
        with self.lock:
            view = self.writable()
            if view.spill is None:
                view.spill = Spill(f"{self._beside}spill", self.path)
            view.spill.append(entries)
            view.put({info.filename: info for info, _ in entries})
            if view.spill.is_wasteful:
                with suppress(StoreError):  # no room for both: it can wait
                    spill, pending = view.spill.compacted(view.pending)
                    self._view = View(view.base, pending, spill)

    def writable(self) -> View:
        """Return the view to write to, having made sure that nobody else writes. The caller holds the lock."""
        view = self.view()
        if self._writer.held and self._prepared:
            return view
        self._prepared = False
        self._writer.acquire()
        self._at_exit = _at_exit_of_worker(self)
        remove(f"{self._beside}new", self.path)  # what a killed writer has left
        if view.inherited:
            self._view = None
        view = self.view()  # another writer may have published before it gave the lock back
        self._prepared = True
        return view

    def flush(self) -> None:
        """Publish what is pending."""
        with self.lock:
            view = self._view
            if view is not None and view.pending and not view.inherited and not self._forked:
                view = self.view()
                if view.pending:
                    self._publish(view)
            if self._unsynced:
                sync_folder(self.path)
                self._unsynced = False

    def revert(self) -> None:
        """Forget what is pending, and let others write."""
        with self.lock:
            self._view = self._coming = None
            if self._at_exit is not None:
                self._at_exit.cancel()
                self._at_exit = None
            if self._writer.held:
                with suppress(StoreError):  # an interrupted call may have left it; it is empty, and the next one's
                    remove(f"{self._beside}spill", self.path)
            self._writer.release()

    def close(self) -> None:
        """Publish what is pending, let others write, and forget what was seen."""
        with self.lock:
            self.flush()
            self.revert()
            self.seen = False

    def forked(self) -> None:
        """Begin anew in a child: with its own lock and descriptors, and with nothing to publish."""
        self.lock = threading.RLock()
        self._forked, self._at_exit, self._coming = True, None, None
        self._unsynced = self._prepared = False

    def _publish(self, view: View) -> None:
        new = f"{self._beside}new"
        self._coming = write_anew(self.path, new, view.base, view.pending, view.spill)
        self._unsynced = True
        # From here on the new version may be in place, whatever is raised: `_renewed` knows it by its identity.
        put_in_place(new, self.path)
        self._view, self.seen, self._coming = View(self._coming), True, None

    def _renewed(self) -> View:
        with self.lock:
            view, there = self._view, identity_of(self.path)
            if self._coming is not None and self._coming.identity == there:
                view, self.seen, self._coming = View(self._coming), True, None
            elif view is None:
                view = View(self._opened(missing=there is None))
            elif there == view.base.identity:
                view = self._inherited(view) if self._forked else view
            elif view.pending and not view.inherited and not self._forked:
                view = View(self._changed(view, there), view.pending, view.spill)
            else:
                view = View(self._opened(missing=there is None))
            self._view, self._forked = view, False
            return view

    def _changed(self, view: View, there: Identity | None) -> Directory:
        """Return what another program has made of the archive while values are pending; it does not know our lock."""
        if there is not None and view.base.identity is not None and there[:2] == view.base.identity[:2]:
            return read_directory(self.path, may_be_empty=not self.seen)  # the same file, touched or added to
        raise StoreUnavailableError(
            f"the zip archive {self.path!r} {'is gone' if there is None else 'was replaced by another program'} while "
            f"values for it were pending: bring back the file that was there, or revert() the mapping to give them up"
        )

    def _opened(self, *, missing: bool) -> Directory:
        if not missing:
            directory = read_directory(self.path, may_be_empty=not self.seen)
            self.seen = not directory.is_new
            return directory
        if self.seen:
            raise StoreUnavailableError(
                f"the zip archive {self.path!r} is gone, though it was there before: bring it back, or close() the "
                f"store to begin anew"
            )
        return Directory()

    def _inherited(self, view: View) -> View:
        """Return a forked child's own view of what the parent showed."""
        base = view.base if view.base.file is None else reopened(view.base, self.path)
        if base is None:
            return View(self._opened(missing=False))
        return View(base, view.pending, view.spill, inherited=bool(view.pending))


def _at_exit_of_worker(archive: Archive) -> Finalize | None:
    """Have the archive published when a worker of multiprocessing ends: those that were forked run no ``atexit``."""
    if "multiprocessing.process" not in sys.modules:
        return None
    from multiprocessing import parent_process, util

    return None if parent_process() is None else util.Finalize(None, archive.close, exitpriority=0)


_archives: dict[str, Archive] = {}
_guard = threading.RLock()


def shared_archive(path: str) -> Archive:
    """Return this process's state of an archive, for one more mapping."""
    with _guard:
        archive = _archives.get(path) or Archive(path)
        archive.users += 1
        _archives[path] = archive
        return archive


def release_archive(archive: Archive) -> None:
    """Take leave of a mapping that is gone; the last one's archive is published and closed."""
    with _guard:
        archive.users -= 1
    if archive.is_used():
        return
    # It stays in the table until it is published: whoever opens the path meanwhile gets it, not the old version.
    archive.close()
    with _guard:
        if not archive.is_used() and _archives.get(archive.path) is archive:
            del _archives[archive.path]


def _after_fork_in_child() -> None:
    for archive in _archives.values():
        archive.forked()
    _guard.release()


def _publish_all() -> None:
    """Publish and close what is still there when the interpreter ends."""
    for archive in list(_archives.values()):
        _publish_or_tell(archive)


def _publish_or_tell(archive: Archive) -> None:
    try:
        archive.close()
    except StoreError as error:  # whose words say what is wrong; nobody is left to catch it
        print(f"zarrstream: what was pending is lost: {error}", file=sys.stderr)  # noqa: T201  # as Python does


on_fork(50, before=_guard.acquire, parent=_guard.release, child=_after_fork_in_child)
atexit.register(_publish_all)
