"""A file or folder that was there and is gone: our error, never "not stored"; and nothing is written to it."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends import ROWS
from zarrstream.errors import StoreUnavailableError
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.mappings.sqlite import session as sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.backends import Row
    from zarrstream import ByteMapping

#: What is answered by a look at the path, and what was read before.
ASKS: tuple[Callable[[ByteMapping], object], ...] = (
    lambda lost: lost["absent"],
    lambda lost: lost["k"],
    lambda lost: lost.update({"k": b"2"}),
    lambda lost: lost.size("k"),
    list,
)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in {"sqlite", "lmdb"}], ids=lambda row: row.name)
def test_a_vanished_place_is_lost_not_empty(row: Row, tmp_path: Path) -> None:
    """What was there once is never read as "not stored", nor by a copy elsewhere; `close` begins anew."""
    mapping: Any = row.make(tmp_path)
    path: Path = mapping.path
    mapping["k"] = b"1"
    mapping.close()
    assert mapping["k"] == b"1"
    moved = path.rename(path.with_suffix(".moved"))
    copy = pickle.loads(pickle.dumps(mapping))
    for lost in (mapping, copy):
        for ask in ASKS:
            with pytest.raises(StoreUnavailableError, match="gone"):
                ask(lost)
    assert not path.exists()
    moved.rename(path)
    assert (mapping["k"], copy["k"]) == (b"1", b"1")
    copy.close()
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    mapping.close()
    mapping["k"] = b"3"
    assert dict(mapping) == {"k": b"3"}
    mapping.close()


def test_a_value_is_read_without_a_look_at_the_path_for_10_ms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written, absent or older is not: a write never goes to a file that is not at the path."""
    now, path = 100.0, tmp_path / "x.db"
    monkeypatch.setattr(sqlite_file, "monotonic", lambda: now)
    mapping = SQLiteMapping(path)
    mapping["k"] = b"1"

    def lose(passed: float) -> None:
        nonlocal now
        assert mapping["k"] == b"1"
        path.rename(path.with_suffix(".moved"))
        now += passed

    lose(0.009)
    assert mapping["k"] == b"1"
    for ask in ASKS:
        with pytest.raises(StoreUnavailableError, match="gone"):
            ask(mapping)
    path.with_suffix(".moved").rename(path)
    lose(0.011)
    with pytest.raises(StoreUnavailableError, match="gone"):
        mapping["k"]
