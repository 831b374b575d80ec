"""The arguments of a write, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zarrstream.streaming.options import check_callables, check_on_error

if TYPE_CHECKING:
    from zarrstream.streaming.codecs.array import ArrayCodec
    from zarrstream.streaming.options import Filter, Limits, OnError, OnProgress
    from zarrstream.streaming.writing.checkpoint import Checkpoint


@dataclass(frozen=True)
class WritePlan:
    """A write, checked; see `zarrstream.write_stream` for the fields."""

    codec: ArrayCodec
    limits: Limits
    checkpoint: Checkpoint | None
    listener: OnProgress | None
    filter: Filter | None
    on_error: OnError
    progress: OnProgress | None
    total: int | None
    partial: str

    @property
    def merges(self) -> bool:
        """Whether an item may give a part of a chunk."""
        return self.partial == "merge"

    def __post_init__(self) -> None:
        if self.partial not in ("refuse", "merge"):
            raise ValueError(f"partial must be 'refuse' or 'merge', not {self.partial!r}")
        check_on_error(self.on_error)
        check_callables(filter=self.filter, progress=self.progress)
        if self.codec.array.store.read_only:
            raise ValueError(
                f"{self.codec.array.store_path} is read-only: open the array with mode='r+' to write into it"
            )
