"""A zip archive that was open before a fork, is spawned with, or pickled: nothing is published twice, or lost."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from zarr.core.buffer import cpu

from tests.processes import METHODS, in_child, run, use_inherited
from tests.zip_files import content, descriptors, sidecars
from zarrstream import MappingStore
from zarrstream.errors import StoreUnavailableError
from zarrstream.mappings.zip import ZipMapping
from zarrstream.mappings.zip import publish as zip_publish

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


@pytest.mark.parametrize("method", METHODS)
def test_the_end_of_a_worker_publishes(path: Path, method: str) -> None:
    """Of every kind, whatever still holds the mapping; those that are forked end by ``os._exit``."""
    run(method, write_and_keep, [(path,)])
    assert content(path) == {"k": b"1"}
    assert not sidecars(path)


def write_and_keep(path: Path) -> None:
    """Write, and leave the mapping where the worker's end finds it."""
    KEPT.append(mapping := ZipMapping(path))
    mapping["other"] = b"closed and opened again"
    mapping.close()
    del mapping["other"]
    mapping["k"] = b"1"


KEPT: list[ZipMapping] = []


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
    seen, tells = os.pipe()

    def work() -> None:
        assert mapping["k"] == b"at the fork"
        os.write(tells, b".")
        os.read(reads, 1)
        assert dict(mapping) == {"k": b"published"}
        mapping["child"] = b"writes now"
        mapping.close()

    def publish() -> None:
        os.read(seen, 1)
        mapping["k"] = b"published"
        mapping.close()
        os.write(writes, b".")

    later = threading.Thread(target=publish)
    later.start()
    in_child(work)
    later.join()
    for descriptor in (reads, writes, seen, tells):
        os.close(descriptor)
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
