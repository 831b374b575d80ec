"""What LMDB says when it fails: our error, the place and the remedy, and never "absent"."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from tests.lmdb_tables import KINDS, MIB, forked, made
from tests.optional import require
from tests.processes import in_child
from zarrstream import places
from zarrstream.errors import (
    MissingExtraError,
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreOptionError,
    StoreUnavailableError,
)

lmdb = require("lmdb")

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402
from zarrstream.mappings.lmdb import errors as lmdb_errors  # noqa: E402  # where there is a driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lmdb"


@pytest.fixture(params=KINDS)
def mapping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LMDBMapping]:
    yield from made(request.param, tmp_path)


# -- what is there is not what it should be ---------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.mkdir()
    (path / "data.mdb").write_bytes(b"this is not a database, however long it is" * 1000)


def cut_short(path: Path) -> None:
    mapping = LMDBMapping(path)
    mapping.update_many((f"k{number}", bytes(100_000)) for number in range(50))
    mapping.close()
    os.truncate(path / "data.mdb", MIB)


def several_values_per_key(path: Path) -> None:
    """Make the main database one with several values per key, as other programs do: in both meta pages."""
    LMDBMapping(path)["k"] = b"1"
    with (path / "data.mdb").open("r+b") as file:
        for page in (0, 4096):
            file.seek(page + 16 + 24 + 48 + 4)  # page header, what is before the databases, the free list's, its pad
            file.write(b"\x04\0")


@pytest.mark.parametrize("spoil", [garbage, cut_short, several_values_per_key])
def test_a_database_that_is_not_what_it_should_be_is_corrupt(path: Path, spoil: Callable[[Path], None]) -> None:
    """One that was cut short, too, which LMDB itself would answer with a SIGBUS."""
    spoil(path)
    mapping = LMDBMapping(path)
    with pytest.raises(StoreCorruptError, match=str(path)):
        mapping["k49"]
    with pytest.raises(StoreCorruptError, match=str(path)):
        mapping["k1"] = b""


def overwrite(mapping: LMDBMapping) -> None:
    for number in range(400):
        mapping[f"k{number % 90}"] = bytes([number % 250]) * (37 * number % 9000)


def fill_and_clear(mapping: LMDBMapping) -> None:
    """Leave a list of free pages that is itself longer than a page."""
    mapping.update_many((f"k{number}", bytes(8000)) for number in range(700))
    mapping.clear()
    mapping.update({"k": b"1", "l": b"2"})


@pytest.mark.parametrize(("fill", "step"), [(overwrite, 1), (fill_and_clear, 3)])
def test_wherever_a_file_is_cut_it_is_told(path: Path, fill: Callable[[LMDBMapping], None], step: int) -> None:
    """Unless nothing is lost, since nobody uses what is missing. To read a page that is not there is a SIGBUS."""
    mapping = LMDBMapping(path, durability="off")
    fill(mapping)
    whole = dict(mapping)
    mapping.close()
    content = (path / "data.mdb").read_bytes()

    def cut() -> None:
        told = kept = 0
        for size in (len(content) - 1, *range(len(content), 8192, -4096 * step)):
            (path / "data.mdb").write_bytes(content[:size])
            reader = LMDBMapping(path)
            try:
                assert dict(reader) == whole
                kept += 1
                reader["new"] = bytes(9000)
            except StoreCorruptError as error:
                assert "cut short" in str(error)  # noqa: PT017  # not always
                told += 1
            reader.close()
        assert min(told, kept) > 0

    in_child(cut)


def test_damaged_pages_are_told(path: Path) -> None:
    mapping = LMDBMapping(path)
    mapping.update_many((f"k{number}", bytes(500)) for number in range(1000))
    mapping.close()
    with (path / "data.mdb").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(StoreError, match=str(path)):
        mapping["k1"]


def test_every_error_of_lmdb_is_one_of_ours() -> None:
    """And a StoreError that names the place, with a remedy."""
    kinds = [kind for kind in vars(lmdb).values() if isinstance(kind, type) and issubclass(kind, lmdb.Error)]
    assert len(kinds) > 20
    for kind in kinds:
        made = lmdb_errors.translated(kind("what LMDB said"), "/nowhere", "the LMDB database '/nowhere'")
        assert isinstance(made, StoreError)
        assert "/nowhere" in str(made)
        assert "what LMDB said" in str(made)
    too_big = lmdb_errors.translated(lmdb.BadValsizeError("x"), "/", "y")
    assert "smaller chunks" in str(too_big)


def test_a_file_in_the_place_of_the_folder_is_told(path: Path) -> None:
    path.write_bytes(b"")
    for ask in (list, lambda mapping: mapping.update({"k": b"1"})):
        with pytest.raises(StoreOptionError, match="name a folder"):
            ask(LMDBMapping(path))


def test_a_missing_parent_is_named(path: Path) -> None:
    mapping = LMDBMapping(path / "nowhere" / "x")
    assert list(mapping) == []
    with pytest.raises(StoreUnavailableError, match=f"make '{path}/nowhere'"):
        mapping["k"] = b"1"


def test_a_driver_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By our own name, and by fsspec's URL."""
    monkeypatch.setattr(places, "is_there", lambda module: module != "lmdb")
    for url in ("shm://t", f"lmdb:///{tmp_path}/x.lmdb"):
        with pytest.raises(MissingExtraError, match=r"zarrstream\[shm\]"):
            fsspec.url_to_fs(url)


# -- lost -------------------------------------------------------------------------------------------------------------


def test_a_database_that_another_one_replaces_is_opened_anew(path: Path) -> None:
    mapping, other = LMDBMapping(path), LMDBMapping(path.with_name("y"))
    mapping["k"] = b"old"
    other["l"] = b"new"
    other.close()
    path.rename(path.with_name("z"))
    path.with_name("y").rename(path)
    assert mapping["l"] == b"new"
    assert list(mapping) == ["l"]
    mapping["m"] = b"newer"
    assert mapping["m"] == b"newer"


# -- not for us -------------------------------------------------------------------------------------------------------


def test_code_that_has_it_open_in_this_process_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB's locks belong to the process, so that two environments would undo each other's."""
    from zarrstream.mappings.lmdb import environment as lmdb_environment

    LMDBMapping(path)["k"] = b"1"
    monkeypatch.setattr(lmdb_environment, "_PATIENCE_SECONDS", 0.05)
    mapping = LMDBMapping(path)
    with lmdb.open(str(path)), pytest.raises(StoreUnavailableError, match=r"lmdb\.Environment"):
        mapping["k"]
    assert mapping["k"] == b"1"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(work: Callable[[], None]) -> None:
    """Run in a child without root's rights, which no permission binds."""

    def unprivileged() -> None:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        work()

    in_child(unprivileged)


def test_what_may_not_be_written_is_read_and_says_so(shared: Path) -> None:
    """As long as readers may register in lock.mdb: without that, writers would use their pages again."""
    mapping = LMDBMapping(shared / "x")
    mapping["k"] = b"0123"
    mapping.close()
    (shared / "x" / "data.mdb").chmod(0o644)
    (shared / "x" / "lock.mdb").chmod(0o666)

    def work() -> None:
        reader = LMDBMapping(shared / "x")
        assert (reader["k"], reader.read("k", 1, 3), list(reader)) == (b"0123", b"12", ["k"])
        for ask in (lambda: reader.update({"k": b"4"}), lambda: reader.discard("k")):
            with pytest.raises(StoreAccessError, match="writable"):
                ask()
        assert reader["k"] == b"0123"
        with pytest.raises(StoreAccessError, match="writable"):
            LMDBMapping(shared / "new")["k"] = b"4"
        reader.close()

    as_nobody(work)
    (shared / "x" / "lock.mdb").chmod(0o600)

    def locked_out() -> None:
        with pytest.raises(StoreAccessError, match=r"lock\.mdb"):
            LMDBMapping(shared / "x")["k"]

    as_nobody(locked_out)
    (shared / "x").chmod(0)

    def shut_out() -> None:
        with pytest.raises(StoreAccessError, match=str(shared)):
            LMDBMapping(shared / "x")["k"]

    as_nobody(shut_out)
    (shared / "x").chmod(0o755)


# -- readers' slots ---------------------------------------------------------------------------------------------------


def test_a_reader_waits_for_a_slot(path: Path) -> None:
    """Where another program made a lock file for three, the fourth reader waits until one is done."""
    LMDBMapping(path)["k"] = b"1"
    (path / "lock.mdb").unlink()
    reads, writes = os.pipe()

    def hold() -> None:
        environment = lmdb.open(str(path), max_readers=3)
        held = [environment.begin() for _ in range(3)]
        os.write(writes, b".")
        signal.sigwait({signal.SIGUSR1})
        for transaction in held:
            transaction.abort()
        environment.close()
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    child = forked(hold)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert os.read(reads, 1) == b"."
    release = threading.Timer(0.2, os.kill, (child, signal.SIGUSR1))
    release.start()
    assert LMDBMapping(path)["k"] == b"1"
    release.join()
    os.waitpid(child, 0)
    os.close(reads)
    os.close(writes)


def test_only_an_absent_key_is_a_key_error(mapping: Any) -> None:
    """And what has failed once is opened anew for the next call."""
    mapping["k"] = b"1"

    def fail(_: Any) -> None:
        raise lmdb.CorruptedError("a page")

    with pytest.raises(StoreCorruptError):
        mapping._share.call(fail)
    assert mapping["k"] == b"1"
    with pytest.raises(KeyError):
        mapping["absent"]
