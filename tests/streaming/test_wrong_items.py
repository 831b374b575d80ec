"""Whatever is wrong with an item of a source, what came before it is written; then the error is raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.streaming.test_told import (
    COUNT,
    STORES,
    array_in,
    every_concurrency,
    every_face,
    every_kind,
    every_layout,
    every_position,
    written,
)
from zarrstream import Checkpoint
from zarrstream.errors import UnalignedChunkError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

#: What a source may do wrong, and the error that tells it.
WRONG: dict[str, tuple[Any, type[Exception]]] = {
    "no item": ("nonsense", TypeError),
    "another type": (((0,), np.ones(2, "f8")), TypeError),
    "another shape": (((0,), np.ones(3, "i4")), ValueError),
    "no such chunk": (((99,), np.ones(2, "i4")), ValueError),
    "a cut": ((np.s_[0:1], np.ones(1, "i4")), UnalignedChunkError),
    "data that fail": (((0,), type("Broken", (), {"__array__": lambda *_, **__: 1 / 0})()), ZeroDivisionError),
    "the source": (OSError("it broke"), OSError),
}


def source(bad: int, wrong: Any) -> Iterator[Any]:
    """Yield good items before the wrong one, and good ones behind it."""
    for at in range(COUNT):
        if at == bad:
            if isinstance(wrong, Exception):
                raise wrong
            yield wrong
        yield (at,), np.full(2, at, "i4")


async def awaited(items: Iterator[Any]) -> AsyncIterator[Any]:
    """Yield the same, awaited."""
    for item in items:
        yield item


@every_position
@every_concurrency
@every_layout
@pytest.mark.parametrize("face", ["blocking", "aio", "aio with an awaited source"])
@pytest.mark.parametrize("kind", ["memory", "awaited", "sqlite"])
@pytest.mark.parametrize("what", ["another type", "the source"])
async def test_what_came_before_a_wrong_item_is_written(
    what: str, kind: str, face: str, sharded: bool, concurrency: int, bad: int, tmp_path: Path
) -> None:
    """All of it, wherever the item stands, and nothing that comes behind."""
    wrong, error = WRONG[what]
    store = STORES[kind](tmp_path)
    array = array_in(store, sharded=sharded)
    items: Any = awaited(source(bad, wrong)) if " " in face else source(bad, wrong)
    with pytest.raises(error):
        await written(face.split(maxsplit=1)[0], array, items, concurrency=concurrency)
    assert array[::2].tolist() == [at if at < bad else -1 for at in range(COUNT)]
    store.close()


@pytest.mark.parametrize("what", WRONG)
@every_layout
@every_face
async def test_every_wrong_item_is_one(what: str, face: str, sharded: bool, tmp_path: Path) -> None:
    """Its kind makes no difference, and the checkpoint has what is stored."""
    wrong, error = WRONG[what]
    array = array_in(STORES["local"](tmp_path), sharded=sharded)
    checkpoint = Checkpoint(tmp_path / "c")
    with pytest.raises(error):
        await written(face, array, source(11, wrong), checkpoint=checkpoint)
    assert array[::2].tolist() == [at if at < 11 else -1 for at in range(COUNT)]
    assert list(checkpoint.pending(array)) == [(at,) for at in range(11, COUNT)]


@every_layout
@every_face
@every_kind
async def test_a_filter_that_raises_loses_nothing_either(kind: str, face: str, sharded: bool, tmp_path: Path) -> None:
    """The chunks that it had let pass are written, those of the same item included."""

    def wanted(index: tuple[int, ...]) -> bool:
        if index == (11,):
            raise LookupError("nobody knows")
        return index[0] % 2 == 0

    store = STORES[kind](tmp_path)
    array = array_in(store, sharded=sharded)
    items = [(np.s_[0:48], np.repeat(np.arange(COUNT, dtype="i4"), 2))]
    with pytest.raises(LookupError, match="nobody knows"):
        await written(face, array, items, filter=wanted)
    assert array[::2].tolist() == [at if at < 11 and at % 2 == 0 else -1 for at in range(COUNT)]
    store.close()
