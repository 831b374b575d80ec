"""Several reads of one value, and whether they were of one version of it: asked for by a reader, told by the stores."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from zarrstream.concurrency.context import bound
from zarrstream.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


class ReplacedError(StoreError):
    """A value was replaced between two reads that belong together: begin them anew."""


class OneVersion:
    """The version that the reads of one value have to agree on.

    Parameters
    ----------
    version : object, optional
        The version that an earlier read has seen; None for that which is seen first.

    Attributes
    ----------
    version : object
        It; None where no read has told one.
    """

    def __init__(self, version: object = None) -> None:
        self.version = version

    def saw(self, version: object) -> None:
        """Note the version of what was read; `ReplacedError` where another one was seen before."""
        if self.version is None:
            self.version = version
        elif version != self.version:
            raise ReplacedError("the value was replaced by another one between two reads of its parts")


_current: ContextVar[OneVersion | None] = ContextVar("zarrstream_one_version", default=None)


@contextmanager
def one_version(version: object = None) -> Iterator[OneVersion]:
    """Have the reads of one value within agree on a version of it, as far as its store can tell one.

    Parameters
    ----------
    version : object, optional
        The version that an earlier read has seen.
    """
    # A context variable carries it through wrappers, into a loop's tasks and, by `asyncio.to_thread`, into threads.
    asked = OneVersion(version)
    with bound(_current, asked):
        yield asked


def asked_version() -> OneVersion | None:
    """Return what wants to know the version of what is read now; None where nobody does."""
    return _current.get()


def saw_version(version: object) -> None:
    """Tell the version of what was read: an ETag, an id, anything that the next version has not; None tells nothing."""
    asked = _current.get()
    if asked is not None and version is not None:
        asked.saw(version)
