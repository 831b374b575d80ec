"""A zip archive under many threads and processes: one writes, all read, and a kill at any instant costs no version."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from zarr.core.buffer import cpu

from tests.processes import METHODS, in_child, run, use_inherited
from tests.zip_files import content, sidecars
from zarrstream import MappingStore
from zarrstream.errors import StoreUnavailableError
from zarrstream.mappings import zip_publish
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


@pytest.fixture
def mapping(path: Path) -> Iterator[ZipMapping]:
    made = ZipMapping(path)
    yield made
    made.close()


def descriptors(path: Path) -> int:
    """Count what this process has open of an archive."""
    links = Path("/proc/self/fd").iterdir()
    return sum(str(path) in os.readlink(link) for link in links if link.is_symlink())  # noqa: PTH115  # the text


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
    """Nobody called `close`; a failure then is told, not swallowed."""
    program = "from zarrstream.mappings.zip import ZipMapping; m = ZipMapping({!r}); m['k'] = b'1'; {}"
    subprocess.run([sys.executable, "-c", program.format(str(path), "")], check=True)
    assert content(path) == {"k": b"1"}
    broken = program.format(str(path), f"import os; os.remove({str(path)!r})")
    result = subprocess.run([sys.executable, "-c", broken], check=False, capture_output=True, text=True)
    assert "StoreUnavailableError" in result.stderr
    assert "is gone while values for it were pending" in result.stderr


def read_versions(path: Path, stop: Any) -> None:
    """Read until told to stop; every listing and value is of some whole version, and never an older one."""
    mapping, newest = ZipMapping(path), 0
    while not stop.is_set():
        found = mapping.read_many(["a", "b"])
        versions = {int(value[:8]) for value in found.values()}
        assert len(versions) == 1
        assert all(len(value) == 8 + int(value[:8]) for value in found.values())
        assert versions.pop() >= newest
        newest = int(found["a"][:8])
        assert int(mapping.read("b", 0, 8)) >= newest
    assert newest > 1
    mapping.close()


def test_readers_in_other_processes_see_whole_versions(mapping: ZipMapping, path: Path) -> None:
    """While they are published one after another, each of another length."""

    def publish(version: int) -> None:
        mapping.update_many((key, b"%08d" % version + bytes(version)) for key in "ab")
        mapping.flush()

    publish(1)
    context = get_context("spawn")
    stop = context.Event()
    readers = [context.Process(target=read_versions, args=(path, stop)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(2, 300):
        publish(version)
    # The readers have to come into it, however slowly they start.
    version, deadline = 300, time.monotonic() + 3
    while time.monotonic() < deadline and all(reader.is_alive() for reader in readers):
        publish(version)
        version += 1
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


# -- fork, spawn and pickle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_store_that_was_used_before_works_in_the_child(mapping: ZipMapping, method: str) -> None:
    """It reads what was published, and writes once the parent has closed."""
    store = MappingStore(mapping)
    store.set_sync("parent", cpu.Buffer.from_bytes(b"from the parent"))
    store.close()
    assert store.get_sync("parent") is not None
    with closing(store):
        run(method, use_and_close, [(store,)])
        assert mapping["child"] == b"from the parent"
        mapping["parent"] = b"still writable here"


def use_and_close(store: MappingStore) -> None:
    """As the name says: a child that ends by ``os._exit`` publishes nothing by itself."""
    use_inherited(store)
    store.close()


def test_a_child_reads_what_is_pending_and_never_publishes_it(mapping: ZipMapping, path: Path) -> None:
    """A fill value for a chunk that the parent has written would be a lie."""
    mapping.update_many({"published": b"1", "deleted": b"1"})
    mapping.flush()
    mapping["pending"] = b"2"
    del mapping["deleted"]
    before = path.read_bytes()

    def work() -> None:
        assert dict(mapping) == {"published": b"1", "pending": b"2"}
        with pytest.raises(StoreUnavailableError, match=f"process {os.getppid()} on"):
            mapping["child"] = b"3"
        in_child(lambda: check(dict(mapping) == {"published": b"1", "pending": b"2"}))
        mapping.flush()
        mapping.close()
        assert path.read_bytes() == before

    in_child(work)
    assert path.read_bytes() == before
    assert sidecars(path) == [".x.zip.zarrstream-lock"]
    with pytest.raises(StoreUnavailableError, match="one writer"):  # the child's end has not given the lock back
        second_writer(path)
    mapping.close()
    assert content(path) == {"published": b"1", "pending": b"2"}


def check(truth: bool) -> None:
    assert truth


def second_writer(path: Path) -> None:
    """Try to write from a process of its own, and raise what it raised."""
    program = """
import pickle, sys
from zarrstream.mappings.zip import ZipMapping
try:
    ZipMapping(sys.argv[1])["second"] = b""
except Exception as error:
    sys.stdout.buffer.write(pickle.dumps(error))
"""
    result = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True)
    if result.stdout:
        raise pickle.loads(result.stdout)


def test_a_child_sees_what_the_parent_publishes_later(mapping: ZipMapping, path: Path) -> None:
    """And no longer what was pending when it began."""
    mapping["k"] = b"at the fork"
    reads, writes = os.pipe()

    def work() -> None:
        assert mapping["k"] == b"at the fork"
        os.read(reads, 1)
        assert dict(mapping) == {"k": b"published"}
        mapping["child"] = b"writes now"
        mapping.close()

    def publish() -> None:
        mapping["k"] = b"published"
        mapping.close()
        os.write(writes, b".")

    later = threading.Timer(0.05, publish)
    later.start()
    in_child(work)
    later.join()
    os.close(reads)
    os.close(writes)
    assert content(path) == {"k": b"published", "child": b"writes now"}


def test_descriptors_are_opened_anew_after_a_fork(mapping: ZipMapping, path: Path) -> None:
    """No position and no lock is shared: the parent may move its own as it likes."""
    mapping["k"] = b"1" * 1000
    mapping.close()
    assert mapping["k"] == b"1" * 1000
    descriptor = mapping._archive.view().base.file.descriptor  # type: ignore[union-attr]  # it is open

    def work() -> None:
        os.lseek(descriptor, 500, os.SEEK_SET)
        assert mapping["k"] == b"1" * 1000
        file = mapping._archive.view().base.file
        assert file is not None
        assert os.lseek(file.descriptor, 0, os.SEEK_CUR) == 0
        assert descriptors(path) == 1

    in_child(work)


def test_a_fork_in_the_midst_of_other_threads_writes(mapping: ZipMapping) -> None:
    """The lock that a thread holds at that moment is not held for ever in the child."""
    mapping["k"] = b"1"
    mapping.flush()
    stop = threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            mapping[f"{number}"] = bytes(10_000)
            mapping.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            in_child(lambda: check(mapping["k"] == b"1"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_pickling_publishes(mapping: ZipMapping, path: Path) -> None:
    """So that whoever loads it, wherever he is, sees what was written."""
    mapping["k"] = b"1"
    data = pickle.dumps(mapping)
    assert content(path) == {"k": b"1"}
    program = "import pickle, sys; assert dict(pickle.loads(sys.stdin.buffer.read())) == {'k': b'1'}"
    subprocess.run([sys.executable, "-c", program], check=True, input=data)


def test_a_copy_whose_pending_values_cannot_be_published_is_not_pickled(
    mapping: ZipMapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping["k"] = b"1"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(zip_publish.os, "fsync", full)
        with pytest.raises(OSError, match="no room"):
            pickle.dumps(mapping)
    assert zipfile.is_zipfile(mapping.path) is False
    assert mapping["k"] == b"1"
