"""What zarrstream raises: few kinds, each also the built-in that it resembles.

None of them is a ``KeyError``, ``FileNotFoundError``, ``IsADirectoryError`` or ``NotADirectoryError``: zarr takes those
for "this chunk is not stored" and answers with fill values. A failure that reads as data is the worst of all.
"""

from __future__ import annotations

from typing import NoReturn


class ZarrStreamError(Exception):
    """The base of everything that zarrstream raises on purpose."""


class StoreOptionError(ZarrStreamError, ValueError):
    """A URL, scheme, option or value that no store knows; the message names it and the nearest known one."""


class MissingExtraError(ZarrStreamError, ImportError):
    """A back end whose driver is not installed; the message names the extra that brings it."""


class StoreError(ZarrStreamError, OSError):
    """A store failed: the message names the place and the remedy.

    Attributes
    ----------
    passes : bool
        Whether the same call may succeed a moment later, and is worth another attempt.
    throttled : bool
        Whether it failed since the place asks for fewer calls.
    """

    passes: bool = False
    throttled: bool = False


class StoreUnavailableError(StoreError, ConnectionError):
    """The place is lost or cannot be reached: moved, locked for too long, not there, not answering."""

    passes = True


class StoreTimeoutError(StoreError, TimeoutError):
    """The place did not answer within the time that it was given."""

    passes = True


class StoreAccessError(StoreError, PermissionError):
    """The place may not be read or written by this process."""


class StoreFullError(StoreError):
    """The place has no room left; nothing of the failed write is visible."""


class StoreCorruptError(StoreError):
    """The place holds something that is not, or is no longer, what the store expects there."""


class TransactionConflictError(StoreError, BlockingIOError):
    """A transaction met another one that read or wrote the same; nothing of it is stored, and it may be run again."""


class UnsupportedArrayError(ZarrStreamError, TypeError):
    """An array of a kind that cannot be streamed; the message names the kind."""


class PartialWriteError(StoreError):
    """Of many values some were written before one failed; ``__cause__`` says why.

    Parameters
    ----------
    message : str
        What failed.
    written : tuple of str
        The keys that were written.
    """

    def __init__(self, message: str, *, written: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.written = written


class ChunkError(ZarrStreamError):
    """A chunk could not be read or written.

    Parameters
    ----------
    message : str
        What happened, and what to do about it.
    index : tuple of int
        The chunk's coordinates in the array's chunk grid.
    key : str
        The store's key of the chunk, or of the shard that holds it.
    """

    def __init__(self, message: str, *, index: tuple[int, ...] = (), key: str = "") -> None:
        super().__init__(message)
        self.index = index
        self.key = key

    @property
    def cause(self) -> BaseException | None:
        """What the store or the codec raised; the same as ``__cause__``."""
        return self.__cause__


class ChunkReadError(ChunkError, OSError):
    """A chunk could not be fetched or decoded; ``__cause__`` says why."""


class ChunkWriteError(ChunkError, OSError):
    """A chunk could not be encoded or stored; ``__cause__`` says why."""


class ChunkTimeoutError(ChunkError, TimeoutError):
    """A chunk took longer than ``timeout``; after a write its state in the store is unknown."""


class SlabTooLargeError(ZarrStreamError, MemoryError):
    """The chunks that one slice crosses do not fit ``max_bytes``."""


class UnalignedChunkError(ZarrStreamError, ValueError):
    """A region that does not start and stop on chunk boundaries: written so, it would lose its neighbours' data."""


class CheckpointMismatchError(ZarrStreamError, ValueError):
    """A checkpoint that belongs to another array, place, grid, codec chain or token."""


class CheckpointLockedError(ZarrStreamError, BlockingIOError):
    """A checkpoint that another writer holds."""


def raise_alone(error: BaseException) -> NoReturn:
    """Raise an error with its cause and without what is being handled, which may quote a secret.

    ``from None`` does not show that any more, and leaves it in ``__context__``, where whoever logs an error looks.
    """
    try:
        raise error from error.__cause__
    finally:
        error.__context__ = None
