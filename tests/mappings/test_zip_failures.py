"""What the system says when an archive cannot be had: our error, the path and the remedy, and never "absent"."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import in_child
from tests.zip_files import content, make, sidecars
from zarrstream.errors import (
    StoreAccessError,
    StoreFullError,
    StoreOptionError,
    StoreUnavailableError,
)
from zarrstream.mappings.zip import ZipMapping
from zarrstream.mappings.zip import pending as zip_spill
from zarrstream.mappings.zip import publish as zip_publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.fixture
def mapping(path: Path) -> Iterator[ZipMapping]:
    made = ZipMapping(path)
    yield made
    made.revert()


@pytest.mark.parametrize("name", ["", "x\0.zip", "folder/"])
def test_what_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(StoreOptionError, match="names none"):
        ZipMapping(name)


def test_a_full_disk_while_spilling_loses_nothing(path: Path) -> None:
    """The failed write is not there, what was pending is, and the room that it took is given back."""

    def work() -> None:
        mapping = ZipMapping(path)
        mapping["published"] = b"1"
        mapping.flush()
        mapping["pending"] = b"2" * 1000
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        for items in ({"k": bytes(200_000)}, {"pending": b"", "k": bytes(200_000)}):
            with pytest.raises(StoreFullError, match=r"x\.zip.*free space"):
                mapping.update_many(items)
        assert dict(mapping) == {"published": b"1", "pending": b"2" * 1000}
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        spill: Any = mapping._archive._view.spill  # type: ignore[union-attr]  # it is there
        assert os.fstat(spill.descriptor).st_size < 2000
        mapping["k"] = bytes(200_000)
        mapping.close()
        assert content(path) == {"published": b"1", "pending": b"2" * 1000, "k": bytes(200_000)}

    in_child(work)


def test_a_full_disk_while_publishing_loses_nothing(path: Path) -> None:
    """The old archive stays, and so does what is pending; the new one goes."""
    make(path, {"old": bytes(60_000)})
    before = path.read_bytes()

    def work() -> None:
        mapping = ZipMapping(path)
        mapping["new"] = bytes(60_000)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        for publish in (mapping.flush, mapping.close):
            with pytest.raises(StoreFullError, match="what is pending"):
                publish()
            assert path.read_bytes() == before
            assert sidecars(path) == [".x.zip.zarrstream-lock"]
        assert dict(mapping) == {"old": bytes(60_000), "new": bytes(60_000)}
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        mapping.close()
        assert content(path) == {"old": bytes(60_000), "new": bytes(60_000)}

    in_child(work)


def test_no_room_to_write_the_spill_anew_fails_no_write(mapping: ZipMapping, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can wait: the value is written."""
    monkeypatch.setattr(zip_spill, "_SLACK", 0)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(zip_spill, "copy_bytes", full)
        for number in range(5):
            mapping["k"] = b"%d" % number
    assert mapping["k"] == b"4"
    mapping["k"] = b"5"
    assert dict(mapping) == {"k": b"5"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_whatever_fails_while_publishing_the_old_archive_stays(
    mapping: ZipMapping, path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping["k"] = b"1"
    mapping.flush()
    mapping["k"] = b"2"

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(zip_publish.os, step, broken)
        with pytest.raises(StoreUnavailableError, match="check the disk"):
            mapping.flush()
    assert content(path) == {"k": b"1"}
    assert mapping["k"] == b"2"
    mapping.flush()
    assert content(path) == {"k": b"2"}


def test_publication_survives_power_loss(mapping: ZipMapping, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on the disk before it takes the name, and the name is there when the call returns."""
    steps: list[str] = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)

        def noted(*given: Any, name: str = name, call: Callable[..., Any] = call) -> None:
            steps.append(name)
            call(*given)

        monkeypatch.setattr(zip_publish.os, name, noted)
    mapping["k"] = b"1"
    mapping.flush()
    assert steps == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("close", [False, True])
def test_a_lost_archive_is_never_an_empty_one(mapping: ZipMapping, path: Path, *, close: bool) -> None:
    """Here and in every pickled copy; `close` forgets that it was there."""
    mapping["k"] = b"1"
    mapping.flush()
    copy = pickle.dumps(mapping)
    mapping.close()
    assert mapping["k"] == b"1"
    path.unlink()
    if close:
        mapping.close()
        assert list(mapping) == []
        loaded = pickle.loads(copy)
    for ask in (lambda: mapping["k"], lambda: list(mapping), lambda: mapping.__setitem__("k", b"2"), mapping.clear):
        with pytest.raises(StoreUnavailableError, match="is gone, though it was there"):
            ask()
    if close:
        loaded.close()


def test_an_archive_that_is_lost_or_replaced_under_pending_values(mapping: ZipMapping, path: Path) -> None:
    """Neither is the loss taken for emptiness, nor another archive mixed with what is pending."""
    mapping["k"] = b"1"
    mapping.flush()
    mapping["k"] = b"2"
    away = path.rename(path.with_name("away"))
    for replace in (False, True):
        if replace:
            make(path, {"other": b"3"})
        for ask in (lambda: mapping["k"], mapping.flush, mapping.close):
            with pytest.raises(StoreUnavailableError, match=r"values for it were pending.*revert\(\)"):
                ask()
    assert content(path) == {"other": b"3"}
    away.replace(path)
    mapping.close()
    assert content(path) == {"k": b"2"}


def test_a_tool_that_adds_to_the_file_under_pending_values_loses_nothing(mapping: ZipMapping, path: Path) -> None:
    """It knows nothing of our lock; what it added stays, and what is pending lies above it."""
    mapping.update_many({"a": b"1", "b": b"1"})
    mapping.flush()
    mapping["b"] = b"2"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c", b"3")
    os.utime(path)
    mapping.close()
    assert content(path) == {"a": b"1", "b": b"2", "c": b"3"}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    mapping = ZipMapping(tmp_path / "nowhere" / "x.zip")
    assert list(mapping) == []
    with pytest.raises(StoreUnavailableError, match=r"nowhere/x\.zip' has no folder.*make its folder"):
        mapping["k"] = b"1"


def test_a_folder_a_pipe_and_a_file_on_the_way_are_told(tmp_path: Path, path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what in ((tmp_path, "is a folder"), (tmp_path / "pipe", "no regular file")):
        with pytest.raises(StoreOptionError, match=what):
            ZipMapping(name)["k"]
        with pytest.raises(StoreOptionError, match=what):
            ZipMapping(name)["k"] = b"1"
    path.write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match="has no folder"):
        ZipMapping(path / "x.zip")["k"]


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may do anything")
def test_what_may_not_be_written_is_read(path: Path) -> None:
    """A folder without the right to write: reading needs no lock and makes no file."""
    with tempfile.TemporaryDirectory() as folder:
        readable = Path(folder) / "x.zip"
        make(readable, {"k": b"1"})
        secret = Path(folder) / "secret.zip"
        make(secret, {"k": b"1"})
        secret.chmod(0o000)
        Path(folder).chmod(0o555)

        def work() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            mapping = ZipMapping(readable)
            assert dict(mapping) == {"k": b"1"}
            with pytest.raises(StoreAccessError, match="may not be read or written"):
                mapping["k"] = b"2"
            assert mapping["k"] == b"1"
            with pytest.raises(StoreAccessError, match="may not be read or written"):
                ZipMapping(secret)["k"]

        in_child(work)
        Path(folder).chmod(0o755)
