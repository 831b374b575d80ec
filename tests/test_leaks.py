"""The checks of `tests.leaks`, caught in the act."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.leaks import DESCRIPTORS, SHARED_MEMORY

ROOT = Path(__file__).parents[1]

CULPRITS = """
import asyncio, os, threading
from pathlib import Path
from zarr.core.sync import sync
import tests.leaks
tests.leaks.GRACE_SECONDS = 0.1

async def leave(name):
    globals()["kept"] = asyncio.create_task(asyncio.Event().wait(), name=name)

def test_thread():
    threading.Thread(target=threading.Event().wait, name="left-thread", daemon=True).start()

async def test_task():
    await leave("left-task")

def test_task_of_a_loop_of_its_own():
    asyncio.run(leave("left-in-run"))

def test_task_on_the_loop_of_zarr():
    sync(leave("left-on-zarr"))
"""

LINUX_CULPRITS = """
def test_descriptor(tmp_path):
    os.open(tmp_path / "left-file", os.O_CREAT)

def test_shared_memory(shm_name, request):
    path = Path("/dev/shm") / f"{shm_name}-left-memory"
    path.touch()
    request.session.config.add_cleanup(path.unlink)
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytest run of its own process, under our conftest: what it leaves must not be ours."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    return pytester


def test_a_leak_fails_the_test_and_is_named(inner: pytest.Pytester) -> None:
    """What a test leaves behind is an error of that test, and the message has its name."""
    names = ["thread 'left-thread'", "task 'left-task'", "task 'left-in-run'", "task 'left-on-zarr'"]
    linux = DESCRIPTORS.is_dir() and SHARED_MEMORY.is_dir()
    inner.makepyfile(CULPRITS + LINUX_CULPRITS * linux)
    names += ["*/left-file", "*-left-memory"] * linux
    result = inner.runpytest_subprocess()
    result.assert_outcomes(passed=len(names), errors=len(names))
    result.stdout.fnmatch_lines([f"The test left behind: *{name}*" for name in names])


def test_what_goes_by_itself_is_no_leak(inner: pytest.Pytester) -> None:
    """Threads, tasks and descriptors that end within the grace, and the services of zarr's sync API, pass."""
    inner.makepyfile("""
        import asyncio, os, threading
        import zarr
        def test_thread():
            threading.Timer(0.05, print).start()
        async def test_task():
            asyncio.create_task(asyncio.sleep(0.05))
        def test_descriptor(tmp_path):
            threading.Timer(0.05, os.close, [os.open(tmp_path / "file", os.O_CREAT)]).start()
        def test_services(tmp_path):
            assert zarr.ones((4,), store=tmp_path / "a.zarr", chunks=(1,))[...].sum() == 4
    """)
    inner.runpytest_subprocess().assert_outcomes(passed=4)


def test_a_failed_test_is_not_blamed_twice(inner: pytest.Pytester) -> None:
    """A failed test keeps what its traceback holds; only the failure is reported."""
    inner.makepyfile("""
        def test_failing(tmp_path):
            file = (tmp_path / "file").open("wb")
            assert not file
    """)
    inner.runpytest_subprocess().assert_outcomes(failed=1)


def test_a_missing_module_fails_under_ci_and_skips_elsewhere(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It skips with the command that installs it; under CI it fails, except in `bare`, where all are missing."""
    inner.makepyfile("""
        import pytest
        from tests.optional import require
        @pytest.mark.parametrize("environment", [{}, {"CI": "true"}, {"CI": "true", "ZARRSTREAM_BARE": "1"}])
        def test_missing(environment, monkeypatch):
            monkeypatch.delenv("CI", raising=False)
            monkeypatch.delenv("ZARRSTREAM_BARE", raising=False)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            require("no_such_module")
        def test_broken(tmp_path, monkeypatch):
            (tmp_path / "broken_inside.py").write_text("import another_missing_module")
            monkeypatch.syspath_prepend(tmp_path)
            with pytest.raises(ModuleNotFoundError, match="another_missing_module"):
                require("broken_inside")
    """)
    result = inner.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=2, failed=1)
    result.stdout.fnmatch_lines(
        ["CI has to have it: no_such_module is not installed*", "*not installed: pip install no_such_module"]
    )


def test_the_profile_of_hypothesis_follows_the_environment(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ZARRSTREAM_PROFILE`` has the last word; without it CI runs more examples than a quick run."""
    inner.makepyfile("""
        from hypothesis import settings
        def test_examples():
            assert settings().max_examples == 100
    """)
    monkeypatch.delenv("ZARRSTREAM_PROFILE", raising=False)
    monkeypatch.setenv("CI", "true")
    inner.runpytest_subprocess().assert_outcomes(passed=1)
    monkeypatch.setenv("ZARRSTREAM_PROFILE", "quick")
    inner.runpytest_subprocess().assert_outcomes(failed=1)
