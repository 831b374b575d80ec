"""The contract as tests: what a mapping or a store must pass to be one. Needs pytest and Hypothesis.

A new back end subclasses both classes and gives them a fixture ``mapping``, an empty mapping in a place of its own::

    class TestMyMapping(MappingLaws):
        @pytest.fixture
        def mapping(self, tmp_path):
            return MyMapping(tmp_path / "data")

    class TestMyStore(StoreLaws):
        mapping = TestMyMapping.mapping

and runs `check_store_machine` and `check_hierarchy_machine` on a store around it.
"""

# ruff: noqa: S101, D102, PLR2004  # this is a test suite: it asserts, its names are sentences, its numbers plain

from __future__ import annotations

import pickle
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from zarrstream.stores.mapping import MappingStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store

    from zarrstream.mappings.base import ByteMapping

#: Names that stores confuse: prefixes of each other, patterns of LIKE, GLOB and regular expressions, order around "/".
AWKWARD_KEYS: tuple[str, ...] = (
    "a",
    "a/b",
    "a/b/c",
    "a1/y",
    "a[1]/y",
    "a_b/c",
    "axb/c",
    "a%b/c",
    "a*b/c",
    "a?b/c",
    "a.b/c",
    "A/b",
    "foo/c",
    "foobar/c",
    "foo-bar/c",
    "foo/baz",
    "foo0",
    "quo'te\"s/c",
    "back\\slash",
    "sp ace/c",
    "(a|b)+^$/c",
    "#frag?query/c",
    "é/ü/日本/🎉",
    "e\u0301/c",
    "\ud7ff/c",
    "\U0010ffff/c",
    "c/0/0",
    "c/0/10",
    "zarr.json",
)
LONG_KEY = "/".join(["long" * 12] * 20) + "/" + "x" * 20  # 1,000 bytes
#: What a store may be asked for of a value of ten bytes, or of none, and which part of it that is.
ODD_RANGES: tuple[tuple[ByteRequest, slice], ...] = (
    (SuffixByteRequest(0), slice(0, 0)),
    (SuffixByteRequest(3), slice(-3, None)),
    (SuffixByteRequest(99), slice(0, None)),
    (OffsetByteRequest(4), slice(4, None)),
    (OffsetByteRequest(99), slice(99, None)),
    (RangeByteRequest(2, 2), slice(2, 2)),
    (RangeByteRequest(2, 99), slice(2, None)),
    (RangeByteRequest(98, 99), slice(98, 99)),
)
_PATHS = st.text(alphabet="ab/!0_%\u00e9\ud7ff\U0010ffff", max_size=5)
_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


class MappingLaws:
    """What a `ByteMapping` promises. A subclass gives the fixture ``mapping``."""

    def test_awkward_keys_stay_apart(self, mapping: ByteMapping) -> None:
        for key in AWKWARD_KEYS:
            mapping[key] = key.encode()
        assert {key: bytes(mapping[key]) for key in AWKWARD_KEYS} == {key: key.encode() for key in AWKWARD_KEYS}
        assert sorted(mapping) == sorted(AWKWARD_KEYS)
        for gone, key in enumerate(AWKWARD_KEYS, start=1):
            del mapping[key]
            assert sorted(mapping) == sorted(AWKWARD_KEYS[gone:])

    def test_a_key_of_a_thousand_bytes(self, mapping: ByteMapping) -> None:
        assert len(LONG_KEY) == 1000
        mapping[LONG_KEY] = b"long"
        assert (list(mapping), bytes(mapping[LONG_KEY])) == ([LONG_KEY], b"long")

    @_FIXTURE
    @given(keys=st.sets(_PATHS, max_size=8), path=_PATHS)
    def test_listings_are_those_of_a_dict(self, mapping: ByteMapping, keys: set[str], path: str) -> None:
        mapping.clear()
        mapping.update_many((key, b"") for key in keys)
        prefix = f"{path}/" if path else ""
        beneath = {key for key in keys if key.startswith(prefix)}
        assert sorted(mapping.keys_under(path)) == sorted(key for key in keys if key.startswith(path))
        children = list(mapping.children(path))
        assert sorted(children) == sorted({key.removeprefix(prefix).partition("/")[0] for key in beneath} - {""})
        mapping.clear_under(path)
        assert set(mapping) == keys - beneath

    @pytest.mark.parametrize("value", [b"", b"x", b"0123456789", bytes(range(256)) * 4096])
    def test_values_and_their_ranges(self, mapping: ByteMapping, value: bytes) -> None:
        mapping["k"] = b"before"
        mapping["k"] = value
        assert bytes(mapping["k"]) == value
        assert mapping.size("k") == len(value)
        bounds = (0, 1, 4, 9, 10, 11, len(value), len(value) + 1)
        for start in (*bounds, -1, -4, -len(value) - 5):
            for stop in (None, *bounds):
                assert bytes(mapping.read("k", start, stop)) == value[start:stop], (start, stop)

    def test_what_is_absent_is_a_key_error(self, mapping: ByteMapping) -> None:
        mapping["near"] = b"1"
        for ask in (mapping.__getitem__, mapping.__delitem__, mapping.pop, mapping.size, mapping.read):
            with pytest.raises(KeyError):
                ask("nea")
        assert "nea" not in mapping
        assert 7 not in mapping  # type: ignore[comparison-overlap]  # any object may be asked for
        mapping.discard("nea")
        assert mapping.pop("nea", None) is None
        assert mapping.get("nea") is None

    def test_any_contiguous_buffer_goes_in_and_bytes_come_out(self, mapping: ByteMapping) -> None:
        grid = np.arange(12, dtype=">f8").reshape(3, 4)
        records = np.zeros(3, dtype=[("x", "i4"), ("y", "f8")])
        for value in (b"x", bytearray(b"xy"), memoryview(b"xyz")[1:], grid, records, np.empty((0, 4)), bytearray()):
            mapping["k"] = value
            out = mapping["k"]
            assert isinstance(out, bytes) or memoryview(out).readonly
            assert bytes(out) == memoryview(value).tobytes()
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError):
                mapping["k"] = wrong  # type: ignore[assignment]  # that is the mistake

    def test_a_buffer_is_free_when_the_write_returns(self, mapping: ByteMapping) -> None:
        buffer = np.zeros(100, dtype="u1")
        mapping["set"] = buffer
        mapping.update_many([("many", buffer)])
        mapping.setdefault("default", buffer)
        kept = mapping["set"]
        buffer[:] = 7
        mapping["set"] = buffer
        assert bytes(kept) == bytes(mapping["many"]) == bytes(mapping["default"]) == bytes(100)

    def test_the_verbs_of_a_dict(self, mapping: ByteMapping) -> None:
        assert not mapping
        assert len(mapping) == 0
        mapping.update({"a": b"1"}, b=b"2")
        mapping.update([("c", b"3"), ("c", b"4")])
        assert mapping
        assert len(mapping) == 3
        assert {key: bytes(value) for key, value in mapping.items()} == {"a": b"1", "b": b"2", "c": b"4"}
        assert bytes(mapping.setdefault("a", b"9")) == b"1"
        assert bytes(mapping.setdefault("d", b"9")) == b"9"
        assert bytes(mapping.pop("d")) == b"9"
        mapping.popitem()
        assert len(mapping) == 2
        mapping.clear()
        assert not mapping
        mapping.update_many([])
        mapping.update_many({"e": b"5"})
        assert bytes(mapping["e"]) == b"5"

    def test_many_values_at_once(self, mapping: ByteMapping) -> None:
        mapping.update_many((f"c/{at}", bytes([at % 256]) * at) for at in range(700))
        found = mapping.read_many(["nowhere", *(f"c/{at}" for at in reversed(range(700))), "c/7"])
        assert {key: bytes(value) for key, value in found.items()} == {
            f"c/{at}": bytes([at % 256]) * at for at in range(700)
        }
        assert mapping.read_many([]) == {}

    def test_a_pickled_copy_is_the_same_place(self, mapping: ByteMapping) -> None:
        if mapping.place is None:
            return  # what has no place promises no copy
        copy = pickle.loads(pickle.dumps(mapping))  # noqa: S301  # our own
        assert copy == mapping
        assert hash(copy) == hash(mapping)
        assert copy.place == mapping.place
        mapping["k"] = b"1"
        assert bytes(copy["k"]) == b"1"
        copy.close()

    def test_it_closes_twice_and_opens_again(self, mapping: ByteMapping) -> None:
        mapping["k"] = b"1"
        mapping.flush()
        mapping.close()
        mapping.close()
        assert bytes(mapping["k"]) == b"1"

    def test_many_threads_write_and_read(self, mapping: ByteMapping) -> None:
        together = threading.Barrier(8)
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                together.wait()
                for index in range(20):
                    mapping[f"{number}/{index}"] = b"%d" % index
                    assert bytes(mapping[f"{number}/{index}"]) == b"%d" % index
                    assert len(list(mapping.keys_under(f"{number}/"))) == index + 1
            except BaseException as error:  # noqa: BLE001  # told to the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(mapping) == 160

    def test_setdefault_has_one_winner(self, mapping: ByteMapping) -> None:
        together = threading.Barrier(8)
        won: list[bytes] = []

        def work(number: int) -> None:
            together.wait()
            won.append(bytes(mapping.setdefault("k", b"%d" % number)))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [bytes(mapping["k"])] * 8


class StoreLaws(StoreTests[MappingStore, cpu.Buffer]):
    """zarr's own laws, and ours. A subclass gives the fixture ``mapping``."""

    store_cls = MappingStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, mapping: ByteMapping) -> dict[str, Any]:
        return {"mapping": mapping}

    async def set(self, store: MappingStore, key: str, value: cpu.Buffer) -> None:  # type: ignore[override]
        store.mapping[key] = value.to_bytes()

    async def get(self, store: MappingStore, key: str) -> cpu.Buffer:
        return cpu.Buffer.from_bytes(store.mapping[key])

    def test_store_repr(self, store: MappingStore) -> None:
        assert repr(store).startswith("MappingStore(")
        assert str(store) == store.place or str(store).startswith("mapping://")

    def test_store_supports_writes(self, store: MappingStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: MappingStore) -> None:
        assert store.supports_listing

    @pytest.mark.parametrize("value", [b"", b"0123456789"])
    @pytest.mark.parametrize(("wanted", "bounds"), ODD_RANGES, ids=repr)
    async def test_odd_ranges(self, store: MappingStore, value: bytes, wanted: ByteRequest, bounds: slice) -> None:
        prototype = default_buffer_prototype()
        store.set_sync("k", cpu.Buffer.from_bytes(value))
        results = [store.get_sync("k", byte_range=wanted), await store.get("k", prototype, wanted)]
        results += await store.get_partial_values(prototype, [("k", wanted)])
        assert [found and found.to_bytes() for found in results] == [value[bounds] or results[0]] * 3
        assert all(found is not None and found.to_bytes() == value[bounds] for found in results)
        assert store.get_sync("absent", byte_range=wanted) is None

    async def test_what_is_no_buffer_is_refused(self, store: MappingStore) -> None:
        with pytest.raises(TypeError, match="must be a Buffer"):
            await store.set("k", b"bytes")  # type: ignore[arg-type]  # that is the mistake
        with pytest.raises(TypeError, match="must be a Buffer"):
            store.set_sync("k", b"bytes")  # type: ignore[arg-type]  # that is the mistake

    async def test_delete_dir_is_literal(self, store: MappingStore) -> None:
        store.set_many_sync((key, cpu.Buffer.from_bytes(b"1")) for key in AWKWARD_KEYS)
        for path in ("a[1]", "a_b", "a%b", "foo", "a*b/"):
            await store.delete_dir(path)
        await store.delete_dir("/")
        gone = ("a[1]/", "a_b/", "a%b/", "foo/", "a*b/")
        assert sorted(store.mapping) == sorted(key for key in AWKWARD_KEYS if not key.startswith(gone))

    async def test_it_is_usable_after_close(self, store: MappingStore) -> None:
        reader = store.with_read_only(read_only=True)
        store.set_sync("k", cpu.Buffer.from_bytes(b"1"))
        store.flush()
        store.close()
        store.close()
        assert [found async for found in reader.list()] == ["k"]
        assert reader.get_sync("k") is not None
        with pytest.raises(ValueError, match="read-only mode"):
            reader.set_many_sync([])
        with pytest.raises(ValueError, match="read-only mode"):
            reader.delete_sync("k")


def check_store_machine(store: Store, *, examples: int = 20, steps: int = 30) -> None:
    """Run zarr's state machine of single keys on a store.

    Parameters
    ----------
    store : Store
        The store; whatever is in it is removed.
    examples, steps : int, optional
        How many sequences, and how long they may be.
    """
    rules = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    machine: Any = partial(ZarrStoreStateMachine, store)
    run_state_machine_as_test(machine, settings=rules)


def check_hierarchy_machine(store: Store, *, examples: int = 10, steps: int = 15) -> None:
    """Run zarr's state machine of groups and arrays on a store. See `check_store_machine`."""
    rules = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine: Any = partial(ZarrHierarchyStateMachine, store)
    with warnings.catch_warnings():
        # The machine draws data types that zarr has no specification for, and zarr says so each time.
        warnings.filterwarnings("ignore", message=".*Zarr V3 specification")
        run_state_machine_as_test(machine, settings=rules)
