"""Each system call that an archive needs, and what it may say."""

from __future__ import annotations

import errno
import os
import resource
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import in_child
from tests.zip_files import content, make, sidecars
from zarrstream.errors import StoreError, StoreUnavailableError, ZarrStreamError
from zarrstream.mappings.zip import ZipMapping
from zarrstream.mappings.zip import pending as zip_spill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.mark.parametrize("year", [1970, 2026, 2200])
def test_the_machines_clock_is_no_reason_to_fail(path: Path, year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format has two-second steps from 1980 to 2107."""
    monkeypatch.setattr(zip_spill.time, "localtime", lambda: (year, 5, 6, 7, 8, 9, 0, 1, 0))
    mapping = ZipMapping(path)
    mapping["k"] = b"1"
    mapping.close()
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("k").date_time[0] == min(max(year, 1980), 2107)


def test_too_many_open_files_are_told(path: Path) -> None:
    make(path, {"k": b"1"})

    def work() -> None:
        mapping = ZipMapping(path)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
        try:
            with pytest.raises(StoreUnavailableError, match=r"too many files.*ulimit -n"):
                mapping["k"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert mapping["k"] == b"1"

    in_child(work)


def test_a_name_that_leaves_no_room_is_told(tmp_path: Path) -> None:
    mapping = ZipMapping(tmp_path / f"{'n' * 240}.zip")
    with pytest.raises(StoreError, match=r"too long a name.*shorten it"):
        mapping["k"] = b"1"
    mapping.revert()


CALLS = ("open", "stat", "fstat", "pread", "pwrite", "unlink", "replace", "fsync", "fchmod", "copy_file_range")
ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE, errno.EACCES)
STEPS: tuple[Callable[[ZipMapping], object], ...] = (
    lambda mapping: mapping["a"],
    lambda mapping: mapping.update_many({"a": b"3", "c": b"4"}),
    lambda mapping: mapping.flush(),
    lambda mapping: mapping["b"],
    lambda mapping: mapping.close(),
)


@pytest.mark.parametrize("number", ERRNOS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("name", CALLS)
def test_a_failing_system_call_is_an_error_of_ours_and_never_an_absent_key(
    path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call it is, and whichever time it is made: no value of the archive reads as "not stored"."""
    before = {"a": b"1", "b": b"2"}
    after = {"a": b"3", "b": b"2", "c": b"4"}
    real = getattr(os, name)
    made = 0
    left = 0

    def failing(*given: Any, **more: Any) -> Any:
        nonlocal made
        made += 1
        if made == left:
            raise OSError(number, os.strerror(number))
        return real(*given, **more)

    for at in range(1, 40):
        path.unlink(missing_ok=True)
        make(path, before)
        mapping = ZipMapping(path)
        assert mapping["a"] == b"1"
        os.utime(path, ns=(1, 1))  # so that it is opened anew
        made, left = 0, at
        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            for step in STEPS:
                with suppress(ZarrStreamError):  # which is none that zarr takes for "absent"; nothing else may come
                    step(mapping)
        assert mapping["b"] == b"2"
        mapping.update_many({"a": b"3", "c": b"4"})
        mapping.close()
        assert dict(mapping) == after == content(path)
        mapping.close()
        assert sidecars(path) == []
        if made < left:
            return
