"""An archive in a folder that others may write to, and whose it is."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.zip_files import content, make
from zarrstream.errors import StoreAccessError
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_link_at_the_lock_is_followed(path: Path, link: Callable[[Path, Path], None]) -> None:
    """Whoever may write to the folder would have chosen which file is emptied."""
    thesis = path.with_name("thesis.tex")
    thesis.write_text("years of work")
    lock = path.with_name(".x.zip.zarrstream-lock")
    link(thesis, lock)
    mapping = ZipMapping(path)
    with pytest.raises(StoreAccessError, match="is a link to another file"):
        mapping["k"] = b"1"
    assert thesis.read_text() == "years of work"
    lock.unlink()
    mapping["k"] = b"1"
    mapping.close()
    assert content(path) == {"k": b"1"}


@pytest.mark.parametrize("name", ["spill", "new"])
def test_no_link_at_a_side_file_is_followed(path: Path, name: str) -> None:
    thesis = path.with_name("thesis.tex")
    thesis.write_text("years of work")
    path.with_name(f".x.zip.zarrstream-{name}").symlink_to(thesis)
    mapping = ZipMapping(path)
    mapping["k"] = b"1"
    mapping.close()
    assert thesis.read_text() == "years of work"
    assert content(path) == {"k": b"1"}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_new_version_is_never_readable_by_more_than_the_archive(
    path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while it is written, and so not after a kill; nor where the permissions changed since it was opened."""
    make(path, {"k": b"1"})
    mapping = ZipMapping(path)
    mapping["k"] = b"2"
    path.chmod(mode)
    seen: list[int] = []
    synchronised = os.fsync

    def noted(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        synchronised(descriptor)

    opened = os.open

    def watched(name: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor = opened(name, flags, mode, **more)
        if str(name).endswith("-new"):
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "fsync", noted)
    mapping.flush()
    assert seen[:2] == [0o600, mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode
    mapping.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to others")
def test_an_archive_stays_its_owners(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its group's; where it cannot, the group of the new version may do no more than all others."""
    for number, refused in enumerate((False, True)):
        make(path, {"k": b"1"})
        os.chown(path, 1234, 2345)
        path.chmod(0o640)
        mapping = ZipMapping(path)
        mapping["k"] = b"2"

        def denied(*_: Any) -> None:
            raise OSError(errno.EPERM, "not permitted")

        with monkeypatch.context() as patched:
            if refused:
                patched.setattr(os, "fchown", denied)
            mapping.close()
        found = path.stat()
        expected = (os.geteuid(), os.getegid(), 0o600) if refused else (1234, 2345, 0o640)
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == expected, number
        path.unlink()
