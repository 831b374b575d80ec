"""What was read of a shard piece by piece, and whether its index and its pieces are of one version. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from zarrstream.streaming.layout.shard import ShardLayout

    ShardIndex: TypeAlias = npt.NDArray[Any]
    #: An index (None where there is no shard), and the version that it was read from; None where the store tells none.
    VersionedIndex: TypeAlias = tuple[ShardIndex | None, object]
    Pieces: TypeAlias = dict[tuple[int, int], Any]


class Parts:
    """The pieces of one shard.

    Parameters
    ----------
    layout : ShardLayout
        How the shard is laid out.
    found : tuple
        The index by which they were asked for, and its version.
    spans : sequence of (int, int)
        The byte ranges that were asked for.
    raws : sequence
        What came for each.
    """

    def __init__(
        self, layout: ShardLayout, found: VersionedIndex, spans: Sequence[tuple[int, int]], raws: Sequence[Any]
    ) -> None:
        self._index, self._version = found
        self.pieces: Pieces = {}
        self._short: ValueError | None = None
        for span, raw in zip(spans, raws, strict=True):
            try:
                self.pieces[span] = _complete(raw, span, layout, self._index)
            except ValueError as error:
                self._short = error

    def believed(self, *, fresh: bool) -> bool:
        """Return whether the pieces are the index's without a second look at it.

        Parameters
        ----------
        fresh : bool
            Whether an index without a version is believed.
        """
        return self._short is None and (fresh or self._version is not None)

    def confirmed(self, again: VersionedIndex) -> bool:
        """Return whether the index, read once more, is the same.

        Raises
        ------
        ValueError
            It is, and yet a piece is not as it says: the shard is torn.
        """
        index, version = again
        same = _equal(index, self._index) if self._version is None else version == self._version
        if same and self._short is not None:
            raise self._short
        return same


def _complete(raw: Any, span: tuple[int, int], layout: ShardLayout, index: ShardIndex | None) -> Any:
    """Take a range's bytes if they are all there, or out of the whole shard where the server answered with that."""
    view = memoryview(b"" if raw is None else raw).cast("B")
    asked, got = span[1] - span[0], len(view)
    if got == asked:
        return raw
    if got < asked:
        raise ValueError(f"asked for bytes {span[0]} to {span[1]} of the shard and got {got}: truncated")
    if got >= span[1] and got >= layout.index_nbytes and _equal(layout.index_of(view), index):
        return view[span[0] : span[1]]
    raise ValueError(
        f"asked for bytes {span[0]} to {span[1]} of the shard and got {got}, more than that: the server ignores ranges"
    )


def _equal(one: ShardIndex | None, other: ShardIndex | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
