"""LMDB: where a database lies, how keys and values lie in it, and how many environments there are."""

from __future__ import annotations

import gc
import pickle
import resource
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.lmdb_tables import KINDS, MIB, descriptors, made
from tests.optional import require
from tests.processes import in_child
from zarrstream import StoreOptionError, list_stores, open_store

lmdb = require("lmdb")

from zarrstream.mappings.lmdb import LMDBMapping  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lmdb"


@pytest.fixture(params=KINDS)
def mapping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LMDBMapping]:
    yield from made(request.param, tmp_path)


# -- the place --------------------------------------------------------------------------------------------------------


def test_reading_makes_nothing(path: Path) -> None:
    """Whatever does not write finds an empty mapping, also in a folder that is there, and leaves no file."""
    for where in (path, path.parent):
        mapping = LMDBMapping(where)
        assert (list(mapping), len(mapping), bool(mapping), "k" in mapping) == ([], 0, False, False)
        assert list(mapping.children("a")) == list(mapping.keys_under("a")) == []
        assert mapping.read_many(["k"]) == {}
        mapping.discard("k")
        mapping.clear()
        mapping.update_many([])
        assert mapping.pop("k", None) is None
        with pytest.raises(KeyError):
            del mapping["k"]
        mapping.close()
    assert not list(path.parent.iterdir())


def test_the_place_is_the_resolved_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "x")
    mapping = LMDBMapping("x")
    assert mapping.place == f"lmdb:///{tmp_path.resolve()}/x"
    assert {mapping, LMDBMapping(tmp_path / "x"), LMDBMapping("link")} == {mapping}
    assert mapping != LMDBMapping("y")


@pytest.mark.parametrize(
    "wrong", [{"durability": "none"}, {"map_size": 0}, {"map_size": 1e9}, {"map_size": "1GiB"}, {"map_size": True}]
)
def test_a_bad_option_is_named(path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(StoreOptionError, match=next(iter(wrong))):
        LMDBMapping(path, **wrong)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_path_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(StoreOptionError, match="names none"):
        LMDBMapping(name)


def test_it_opens_by_url_and_by_parts(tmp_path: Path, shm_name: str) -> None:
    on_disk = open_store(f"lmdb:///{tmp_path}/x", durability="full")
    assert repr(on_disk) == f"MappingStore(LMDBMapping('{tmp_path}/x', durability='full'))"
    assert open_store("lmdb", path=str(tmp_path / "x"), map_size=MIB).mapping == on_disk.mapping  # type: ignore[attr-defined]
    in_memory: Any = open_store(f"shm://{shm_name}", map_size=MIB)
    assert repr(in_memory) == f"MappingStore(SharedMemoryMapping('{shm_name}', map_size=1048576))"
    assert open_store("shm", name=shm_name).mapping == in_memory.mapping  # type: ignore[attr-defined]
    assert {info.extra for info in list_stores() if info.scheme in {"lmdb", "shm"}} == {"shm"}
    for wrong in ("shm://", "shm://a/b", "shm://..", "lmdb://x"):
        with pytest.raises(StoreOptionError):
            open_store(wrong)


@pytest.mark.parametrize(("durability", "sync", "metasync"), [("off", 0, 0), ("normal", 1, 0), ("full", 1, 1)])
def test_durability_is_lmdbs_sync(path: Path, durability: Any, sync: int, metasync: int) -> None:
    mapping = LMDBMapping(path, durability=durability)
    mapping["k"] = b"1"
    flags = mapping._share.environment.handle.flags()  # type: ignore[union-attr]
    assert (flags["sync"], flags["metasync"], flags["writemap"]) == (sync, metasync, False)
    assert mapping["k"] == b"1"


def test_the_map_is_one_gib_at_first(path: Path) -> None:
    """Of address space, of which five hundred stores need no more than there is; the file is as long as its pages."""
    mapping = LMDBMapping(path, durability="off")
    mapping["k"] = b"1"
    assert mapping._share.environment.map_size == 1 << 30
    assert (path / "data.mdb").stat().st_size < 1 << 20
    mapping.close()


def test_the_strictest_durability_holds_for_all(path: Path) -> None:
    lax, strict = LMDBMapping(path, durability="off"), LMDBMapping(path, durability="full")
    lax["k"] = b"1"
    assert strict["k"] == b"1"
    assert lax["k"] == b"1"
    flags = lax._share.environment.handle.flags()  # type: ignore[union-attr]
    assert flags["sync"]
    assert flags["metasync"]


# -- one environment per folder and process ---------------------------------------------------------------------------


def test_all_mappings_of_a_folder_share_one_environment(path: Path) -> None:
    """LMDB forbids two; the last to be closed, or dropped, closes it."""
    path.parent.joinpath("link").symlink_to(path)
    first, second, third = LMDBMapping(path), LMDBMapping(path.parent / "link"), LMDBMapping(path)
    first["k"] = b"1"
    once = descriptors(first)
    assert once > 0
    assert second["k"] == third["k"] == b"1"
    assert descriptors(first) == once
    third.close()
    first.close()
    assert descriptors(second) == once
    assert second["k"] == b"1"
    second.close()
    assert descriptors(first) == 0
    assert first["k"] == b"1"
    del second, third
    assert descriptors(first) == once
    copy = LMDBMapping(path)
    del first
    gc.collect()
    assert copy["k"] == b"1"
    path = copy.path
    del copy
    gc.collect()
    assert descriptors(LMDBMapping(path)) == 0


def test_a_dropped_mapping_makes_room_for_another_at_once(path: Path) -> None:
    """In many threads, while the dropped environment may still be closing."""
    failures: list[BaseException] = []
    LMDBMapping(path, durability="off")["k"] = b"1"

    def work() -> None:
        try:
            for _ in range(50):
                assert LMDBMapping(path, durability="off")["k"] == b"1"
        except BaseException as error:  # noqa: BLE001  # told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_copy_is_of_the_same_place(mapping: LMDBMapping) -> None:
    mapping["k"] = b"1"
    copy = pickle.loads(pickle.dumps(mapping))
    assert (copy, hash(copy), repr(copy)) == (mapping, hash(mapping), repr(mapping))
    assert copy["k"] == b"1"
    copy.close()


# -- values -----------------------------------------------------------------------------------------------------------


def test_values_leave_as_copies(mapping: LMDBMapping) -> None:
    """None is a view into the map, which may move; each outlives the environment."""
    mapping["k"] = bytes(range(256)) * 100
    values = [
        mapping["k"],
        mapping.read("k", 0, 256),
        mapping.read_many(["k"])["k"],
        mapping.setdefault("k", b""),
        mapping.pop("k"),
    ]
    assert {type(value) for value in values} == {bytes}
    mapping.close()
    assert {value[:256] for value in values} == {bytes(range(256))}


def test_a_range_copies_no_more_than_itself(path: Path) -> None:
    """A hundred bytes are read where there is memory for 16 MiB, and what malloc kept; the whole value is not."""
    mapping = LMDBMapping(path, durability="off")
    mapping["k"] = bytes(128 * MIB)
    mapping.close()

    def work() -> None:
        assert mapping.read("k", 0, 1) == bytes(1)
        with open("/proc/self/status") as file:  # noqa: PTH123  # no file of the disk
            own = next(int(line.split()[1]) for line in file if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (own + 16 * MIB, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        assert mapping.read("k", -100) == bytes(100)
        assert mapping.size("k") == 128 * MIB
        with pytest.raises(MemoryError):
            mapping["k"]

    in_child(work)


def test_a_batch_is_all_or_nothing(path: Path) -> None:
    mapping = LMDBMapping(path)
    mapping["k"] = b"before"
    with pytest.raises(TypeError):
        mapping.update_many([("k", b"after"), ("l", "text")])  # type: ignore[list-item]  # that is the mistake

    def interrupted(transaction: Any) -> None:
        transaction.put(b"k", b"after")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        mapping._share.call(interrupted, write=True)
    assert dict(mapping) == {"k": b"before"}
    mapping.update_many([("k", b"first"), ("l", b""), ("k", b"after")])
    assert dict(mapping) == {"k": b"after", "l": b""}


def test_the_items_of_a_batch_may_write_to_the_same_mapping(mapping: LMDBMapping) -> None:
    """They are computed before the transaction begins, however they are."""
    mapping.update_many((f"k{number}", mapping.setdefault("other", b"1")) for number in range(3))
    assert sorted(mapping) == ["k0", "k1", "k2", "other"]


def test_pop_has_one_winner(mapping: LMDBMapping) -> None:
    mapping["k"] = b"1"
    together = threading.Barrier(8)
    won: list[bytes | None] = []

    def work() -> None:
        together.wait()
        won.append(mapping.pop("k", None))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (won.count(b"1"), won.count(None)) == (1, 7)
