"""A zip archive under many threads and processes: one writes, all read, and a kill at any instant costs no version."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import in_child, run
from tests.zip_files import content, descriptors, sidecars
from zarrstream.errors import StoreUnavailableError
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.fixture
def mapping(path: Path) -> Iterator[ZipMapping]:
    made = ZipMapping(path)
    yield made
    made.close()


WRITER = """
import sys
from zarrstream.mappings.zip import ZipMapping

mapping, life = ZipMapping(sys.argv[1]), sys.argv[2]
print("begun", flush=True)
for version in range(1, 1_000_000):
    for number in range(20):
        mapping[f"{number}"] = f"{life} {version} ".encode() * 500
    mapping.flush()
    print(version, flush=True)
"""


def kill_one(path: Path, life: int, rng: random.Random) -> str:
    """Start a writer of versions, kill it at some instant, and return the last version that it announced."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(life)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        last = [child.stdout.readline() for _ in range(rng.randrange(1, 4))][-1]
        # An instant anywhere in a version's life: it is the point that none may matter.
        time.sleep(rng.random() * 0.02)
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().splitlines(keepends=True)
        return [last, *(line for line in rest if line.endswith("\n"))][-1].strip()


@pytest.mark.slow
def test_a_kill_at_any_instant_leaves_a_whole_version(path: Path) -> None:
    """Forty times: the version last published, or the next one; no litter but the lock's file, which locks nothing."""
    check_kills(path, 40)


def test_a_few_kills(path: Path) -> None:
    """The same, in the quick profile."""
    check_kills(path, 4)


def check_kills(path: Path, count: int) -> None:
    rng = random.Random(5)  # noqa: S311  # it chooses instants, not secrets
    for life in range(count):
        last = int(kill_one(path, life, rng))
        found = {
            value[: value.index(b" ", 3) if life > 9 else value.index(b" ", 2)] for value in content(path).values()
        }
        assert len(content(path)) == 20
        assert found <= {f"{life} {last}".encode(), f"{life} {last + 1}".encode()}
        assert len(found) == 1
        assert set(sidecars(path)) <= {".x.zip.zarrstream-lock", ".x.zip.zarrstream-new", ".x.zip.zarrstream-spill"}
    mapping = ZipMapping(path)
    mapping["0"] = b"it is nobody's now"
    assert sidecars(path) == [".x.zip.zarrstream-lock"]  # what killed writers have left is swept by the next
    mapping.close()
    assert sidecars(path) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "step", [step for step in ("open", "copy_file_range", "fchmod", "fsync", "replace") if hasattr(os, step)]
)
def test_a_kill_at_each_step_of_a_publication(
    mapping: ZipMapping, path: Path, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old version is whole up to the renaming, and the new one after it."""
    mapping.update_many((f"{number}", bytes([number]) * 1000) for number in range(20))
    mapping.close()
    old, new = dict(mapping), {**mapping, "0": b"new", "added": b"new"}
    call = getattr(os, step)

    def dying(*given: Any, **options: Any) -> None:
        if when == "after":
            call(*given, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    def publish() -> None:
        mapping.update_many({"0": b"new", "added": b"new"})
        monkeypatch.setattr(os, step, dying)
        mapping.flush()

    with pytest.raises(AssertionError):  # it is killed
        in_child(publish)
    assert content(path) == (new if (step, when) == ("replace", "after") else old)
    mapping["again"] = b"1"
    assert sidecars(path) == [".x.zip.zarrstream-lock"]
    mapping.close()
    assert content(path)["again"] == b"1"
    assert sidecars(path) == []


HOLDER = """
import sys, time
from zarrstream.mappings.zip import ZipMapping
mapping = ZipMapping(sys.argv[1])
mapping["held"] = b"1"
print("held", flush=True)
sys.stdin.readline()
mapping.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_a_second_writer_is_refused_and_told_who_writes(mapping: ZipMapping, path: Path) -> None:
    """Not a mixture; it reads meanwhile, sees the new version when it is there, and may write when the first closed."""
    mapping["k"] = b"1"
    mapping.close()
    assert mapping["k"] == b"1"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        for write in (
            lambda: mapping.__setitem__("k", b"2"),
            lambda: mapping.__delitem__("k"),
            lambda: mapping.pop("k"),
            lambda: mapping.setdefault("new", b""),
            lambda: mapping.update_many({"k": b"2"}),
            mapping.clear,
        ):
            with pytest.raises(StoreUnavailableError, match=f"process {child.pid} on .* one writer at a time"):
                write()
        assert dict(mapping) == {"k": b"1"}
        mapping.discard("absent")  # there is nothing to write
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        assert dict(mapping) == {"k": b"1", "held": b"1"}
        mapping["k"] = b"2"
        mapping.close()
        child.stdin.write("\n")
    assert content(path) == {"k": b"2", "held": b"1"}


def write_in_turn(path: Path, number: int) -> None:
    """Write ten keys of this process's own, one session each, insisting while others write."""
    mapping = ZipMapping(path)
    for index in range(10):
        while True:
            try:
                mapping[f"{number}/{index}"] = b"%d" % number
                break
            except StoreUnavailableError as error:
                assert "one writer at a time" in str(error)  # noqa: PT017  # it is tried again
        mapping["sessions"] = b"%d" % (int(mapping.get("sessions", b"0")) + 1)
        mapping.close()


@pytest.mark.slow
def test_eight_writers_in_turn_lose_nothing(mapping: ZipMapping, path: Path) -> None:
    """Each has the archive to itself from its first write to its close, and begins with what the others published."""
    run("spawn", write_in_turn, [(path, number) for number in range(8)])
    expected = {f"{number}/{index}": b"%d" % number for number in range(8) for index in range(10)}
    assert dict(mapping) == content(path) == {**expected, "sessions": b"80"}
    assert sidecars(path) == []


def test_a_killed_writer_holds_nothing(mapping: ZipMapping, path: Path) -> None:
    """And what it had not published is gone, without litter."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        child.kill()
        child.wait()
    assert dict(mapping) == {}
    assert sidecars(path) == [".x.zip.zarrstream-lock"]
    mapping["k"] = b"1"
    mapping.close()
    assert content(path) == {"k": b"1"}
    assert sidecars(path) == []


def test_the_end_of_the_interpreter_publishes(path: Path) -> None:
    """Nobody called `close`; a failure then is told in words, not swallowed."""
    program = "from zarrstream.mappings.zip import ZipMapping; m = ZipMapping({!r}); m['k'] = b'1'; {}"
    subprocess.run([sys.executable, "-c", program.format(str(path), "")], check=True)
    assert content(path) == {"k": b"1"}
    broken = program.format(str(path), f"import os; os.remove({str(path)!r})")
    result = subprocess.run([sys.executable, "-c", broken], check=False, capture_output=True, text=True)
    assert "what was pending is lost: the zip archive" in result.stderr
    assert "Traceback" not in result.stderr
    assert "is gone while values for it were pending" in result.stderr


def read_versions(path: Path, seen: Any, stop: Any) -> None:
    """Read until told to stop; all values at one moment are of one whole version, and never of an older one."""
    mapping, newest, count = ZipMapping(path), 0, 0
    while not stop.is_set():
        found = mapping.read_many(["a", "b"])
        versions = {int(value[:8]) for value in found.values()}
        assert len(versions) == 1
        assert all(len(value) == 8 + int(value[:8]) for value in found.values())
        version = versions.pop()
        assert version >= newest
        count += version > newest
        newest = version
        assert int(mapping.read("b", 0, 8)) >= newest
        if count >= 20:
            seen.set()
    mapping.close()


def test_readers_in_other_processes_see_whole_versions(mapping: ZipMapping) -> None:
    """While they are published one after another, each of another length, until every reader has met twenty."""
    context = get_context("spawn")
    stop, seen = context.Event(), [context.Event() for _ in range(2)]
    mapping.update({"a": b"00000000", "b": b"00000000"})
    mapping.flush()
    readers = [context.Process(target=read_versions, args=(mapping.path, event, stop)) for event in seen]
    for reader in readers:
        reader.start()
    version, deadline = 0, time.monotonic() + 60
    while not all(event.is_set() for event in seen):
        assert time.monotonic() < deadline
        assert all(reader.exitcode is None for reader in readers)
        version += 1
        mapping.update_many((key, b"%08d" % version + bytes(version)) for key in "ab")
        mapping.flush()
    stop.set()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]


def test_a_reader_in_the_midst_of_a_value_keeps_its_file(mapping: ZipMapping, path: Path) -> None:
    """Another version takes the place, the mapping is closed, and the read ends as it began."""
    mapping["k"] = b"1" * 1000
    mapping.close()
    file, info = mapping._archive.view().base.file, mapping._archive.view().find("k")
    assert file is not None
    assert info is not None
    mapping["k"] = b"2" * 2000
    mapping.close()
    path.unlink()
    assert file.value(info) == b"1" * 1000
    assert descriptors(path) == 1
    del file
    assert descriptors(path) == 0


def test_threads_write_read_publish_and_close(mapping: ZipMapping, path: Path) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(number: int) -> None:
        try:
            for index in range(100):
                key = f"{number}/{index}"
                mapping[key] = key.encode() * 100
                assert mapping[key] == key.encode() * 100
                assert mapping.read(key, 0, len(key)) == key.encode()
                assert len(list(mapping.keys_under(f"{number}/"))) == index + 1
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            failures.append(error)

    def publish() -> None:
        while not stop.is_set():
            mapping.flush()
            mapping.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    publisher = threading.Thread(target=publish)
    for thread in (*threads, publisher):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    publisher.join()
    assert not failures
    mapping.close()
    assert len(content(path)) == 400
