"""What a local store makes beside its data: no link is followed, and nothing is open to more people than it stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.backends import ROWS, Row, contract
from tests.optional import require
from zarrstream.errors import StoreError

LOCAL = [row for row in ROWS if row.service is None and row.name not in {"dict", "zict-func", "zict-buffer", "shelve"}]


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.name)
def test_no_link_is_followed_and_no_mode_is_widened(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is made where nothing was, or opened without following a link; and is never for more than at the end.

    What the drivers of SQLite and LMDB make is theirs: this is about every file and folder that Python code makes.
    """
    made: list[tuple[str, int]] = []
    opened, folder = os.open, os.mkdir

    def watched(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor = opened(path, flags, mode, **more)
        if flags & os.O_CREAT and str(path) != os.devnull:
            assert flags & (os.O_EXCL | os.O_NOFOLLOW), f"a link at {path!r} would be followed"
            made.append((str(path), stat.S_IMODE(os.fstat(descriptor).st_mode)))
        return descriptor

    def watched_folder(path: Any, mode: int = 0o777, **more: Any) -> None:
        folder(path, mode, **more)
        made.append((str(path), stat.S_IMODE(Path(path).stat().st_mode)))

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "mkdir", watched_folder)
    mapping = contract(row.make(tmp_path))  # nothing is made before something is written
    mask = os.umask(0)
    try:
        for step in ("first", "second"):
            mapping.update_many({"k": step.encode(), "d/e": b"2"})
            mapping.flush()
            assert mapping["k"] == step.encode()
            for path, mode in made:
                if Path(path).exists():
                    left = stat.S_IMODE(Path(path).stat().st_mode)
                    assert mode | left == left, f"{path!r} was {mode:o} and is {left:o}"
            mapping.close()
    finally:
        os.umask(mask)
        getattr(mapping, "destroy", mapping.close)()


def test_no_link_at_the_lock_of_an_lmdb_database_is_followed(tmp_path: Path) -> None:
    """LMDB itself would write its table of readers into the file that the link leads to."""
    require("lmdb")
    from zarrstream.mappings.lmdb import LMDBMapping

    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    (tmp_path / "x.lmdb").mkdir()
    (tmp_path / "x.lmdb" / "lock.mdb").symlink_to(thesis)
    mapping = LMDBMapping(tmp_path / "x.lmdb", map_size=1 << 16)
    with pytest.raises(StoreError, match="is a link"):
        mapping["k"] = b"1"
    assert thesis.read_text() == "years of work"
    (tmp_path / "x.lmdb" / "lock.mdb").unlink()
    mapping["k"] = b"1"
    mapping.close()
