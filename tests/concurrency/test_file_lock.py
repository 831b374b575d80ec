"""The lock between processes: one holder, none after its death, none in a forked child."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interrupts import interruptions, uncovered_loops
from zarrstream.concurrency.file_lock import FileLock, fcntl


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """A second lock on the file is refused without waiting, and is told whose it is."""
    first, second = FileLock(str(tmp_path / "lock")), FileLock(str(tmp_path / "lock"))
    assert first.acquire()
    assert not second.acquire(wait=False)
    assert second.holder().startswith(f"process {os.getpid()} on ")
    first.release()
    assert second.acquire(wait=False)
    second.release()


def test_a_removed_file_locks_nothing(tmp_path: Path) -> None:
    """With ``remove`` the file goes with the lock, and whoever waited for it locks a new one."""
    first, second = (FileLock(str(tmp_path / "lock"), remove=True) for _ in range(2))
    first.acquire()
    first.release()
    assert not (tmp_path / "lock").exists()
    assert second.acquire()
    second.release()
    second.release()


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """The lock ends with the process that took it, though a forked child lives on."""
    lock = FileLock(str(tmp_path / "lock"))
    lock.acquire()
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()

    def wait() -> None:
        ready.set()
        go.wait(60)

    child = context.Process(target=wait)
    child.start()
    assert ready.wait(60)
    lock.release()
    assert FileLock(str(tmp_path / "lock")).acquire(wait=False)
    go.set()
    child.join()


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """Nothing is written where somebody else's link leads."""
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "lock").symlink_to(tmp_path / "thesis")
    with pytest.raises(OSError, match="lock"):
        FileLock(str(tmp_path / "lock")).acquire()
    assert (tmp_path / "thesis").read_text() == "years of work"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Where `flock` is not to be had, the lock is granted and a warning says so."""

    def unsupported(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = FileLock(str(tmp_path / "lock"))
    assert lock.acquire(wait=False)
    assert "has no locks" in caplog.text
    lock.release()


def test_an_interrupted_acquire_leaves_it_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that raises as `flock` returns leaves no lock behind."""
    real = fcntl.flock

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        monkeypatch.setattr(fcntl, "flock", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(fcntl, "flock", interrupted)
    first, second = FileLock(str(tmp_path / "lock")), FileLock(str(tmp_path / "lock"))
    with pytest.raises(KeyboardInterrupt):
        first.acquire()
    assert second.acquire(wait=False)
    second.release()


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("verb", ["acquire", "release"])
def test_an_interruption_anywhere_leaves_no_lock_that_nobody_holds(tmp_path: Path, verb: str, *, remove: bool) -> None:
    """At each place where an exception can come: the next calls succeed, and then the lock is free for others."""
    path = str(tmp_path / "lock")
    lock, other = FileLock(path, remove=remove), FileLock(path, remove=remove)
    if verb == "release":
        lock.acquire()
    for interruption in interruptions(getattr(lock, verb)):
        assert lock.acquire(wait=False), interruption
        assert not other.acquire(wait=False), interruption
        lock.release()
        assert other.acquire(wait=False), interruption
        other.release()
        if verb == "release":
            lock.acquire()
    lock.release()


def test_a_second_name_of_a_file_is_refused(tmp_path: Path) -> None:
    """Nothing is written where somebody has put another name of a file that is not theirs."""
    (tmp_path / "thesis").write_text("years of work")
    os.link(tmp_path / "thesis", tmp_path / "lock")
    with pytest.raises(OSError, match="second name"):
        FileLock(str(tmp_path / "lock")).acquire()
    assert (tmp_path / "thesis").read_text() == "years of work"


WITH_LOCKS = (
    "concurrency.file_lock",
    "concurrency.key_lock",
    "faults.script",
    "mappings.foreign",
    "mappings.zip.archive",
    "mappings.zip.view",
)


@pytest.mark.parametrize("name", WITH_LOCKS)
def test_no_loop_goes_round_within_a_block_that_gives_a_lock_back(name: str) -> None:
    """CPython takes some of these jumps for outside of the block: a Ctrl-C then leaves the lock taken."""
    file = importlib.import_module(f"zarrstream.{name}").__file__
    assert file is not None
    code = compile(Path(file).read_text(encoding="utf-8"), file, "exec")
    assert list(uncovered_loops(code)) == []


def test_such_loops_are_found() -> None:
    """Where this Python has them, 3.12 and later: the check itself can tell."""
    source = """
def put(lock, items):
    with lock:
        for item in items:
            if item is None:
                del item
"""
    assert bool(list(uncovered_loops(compile(source, "example", "exec")))) == (sys.version_info >= (3, 12))


def test_an_await_is_no_such_loop() -> None:
    """Python 3.12 leaves it by a jump back, where somebody has thrown into it."""
    source = """
async def wait(turn):
    try:
        await turn
    except BaseException:
        raise
"""
    assert list(uncovered_loops(compile(source, "example", "exec"))) == []
