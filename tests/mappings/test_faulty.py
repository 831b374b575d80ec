"""The mock fails as it is told to, the same way each time, and remembers every call."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from zarrstream.errors import StoreOptionError, StoreTimeoutError, StoreUnavailableError
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import OPERATIONS, Fault
from zarrstream.mappings.sqlite import SQLiteMapping


def filled(*faults: Fault, seed: int = 0) -> FaultyMapping:
    return FaultyMapping({f"c/{number}": bytes([number]) * 8 for number in range(10)}, *faults, seed=seed)


def test_it_records_every_call() -> None:
    """Operation, key, bytes, thread and outcome, in the order in which calls ended."""
    mapping = filled()
    mapping["x"] = b"123"
    assert mapping["c/1"] == b"\1" * 8
    assert "c/0" in mapping
    with pytest.raises(KeyError):
        mapping["absent"]
    with ThreadPoolExecutor(1, thread_name_prefix="other") as pool:
        pool.submit(mapping.read, "c/2", 2, 4).result()
    del mapping["x"]
    mapping.update_many({"a": b"1", "b": b"22"})
    assert sorted(mapping.children("")) == ["a", "b", "c"]
    seen = [(call.operation, call.key, call.nbytes, call.outcome) for call in mapping.calls]
    assert seen == [
        ("set", "x", 3, "ok"),
        ("get", "c/1", 8, "ok"),
        ("contains", "c/0", 0, "ok"),
        ("get", "absent", 0, "absent"),
        ("get", "c/2", 2, "ok"),
        ("delete", "x", 0, "ok"),
        ("set", "a", 1, "ok"),
        ("set", "b", 2, "ok"),
        ("list", "", 0, "ok"),
    ]
    assert mapping.calls[4].thread.startswith("other")
    assert (mapping.count(), mapping.count("get"), mapping.count("get", "c/*"), mapping.count("s*t")) == (9, 3, 2, 3)


def test_an_error_leaves_no_effect_and_a_lost_acknowledgement_leaves_all() -> None:
    """Before the effect, or after it: that is what retries have to tell apart."""
    mapping = filled(
        Fault(kind="error", operation="set", key="before", error=StoreTimeoutError),
        Fault(kind="lost-acknowledgement", operation="set", key="after"),
    )
    with pytest.raises(StoreTimeoutError, match="injected: set of 'before'"):
        mapping["before"] = b"1"
    with pytest.raises(StoreUnavailableError, match="lost-acknowledgement"):
        mapping["after"] = b"2"
    assert "before" not in mapping
    assert mapping["after"] == b"2"
    assert [call.outcome for call in mapping.calls[:2]] == ["StoreTimeoutError", "StoreUnavailableError"]
    assert [call.faults for call in mapping.calls[:2]] == [("error",), ("lost-acknowledgement",)]


def test_a_batch_meets_the_faults_of_each_of_its_keys() -> None:
    """All or nothing, as the batch of the mapping itself."""
    mapping = filled(Fault(kind="error", operation="set", key="b"))
    with pytest.raises(StoreUnavailableError):
        mapping.update_many({"a": b"1", "b": b"2"})
    assert "a" not in mapping
    spoilt = filled(Fault(kind="truncated-value", operation="get", key="c/3"))
    assert spoilt.read_many(["c/3", "c/4", "absent"]) == {"c/3": b"\3" * 4, "c/4": b"\4" * 8}


def test_the_nth_call_once_or_from_then_on() -> None:
    """Calls are counted over all keys that match."""

    def outcomes(fault: Fault) -> list[str]:
        mapping = filled(fault)
        for number in range(5):
            try:
                mapping[f"c/{number}"]
            except StoreUnavailableError:
                continue
        return [call.outcome[0] for call in mapping.calls]

    assert outcomes(Fault(kind="error", nth=2)) == ["o", "S", "o", "o", "o"]
    assert outcomes(Fault(kind="error", nth=3, onwards=True)) == ["o", "o", "S", "S", "S"]


def failing(mapping: FaultyMapping, keys: list[str]) -> set[str]:
    failed = set()
    for key in keys:
        try:
            mapping[key]
        except StoreUnavailableError:
            failed.add(key)
    return failed


def test_a_seed_decides_which_calls_fail_in_whatever_order_they_come() -> None:
    """The same seed, the same calls; another seed, others; about as many as the rate says."""
    keys = [f"k/{number}" for number in range(400)]
    made = {seed: FaultyMapping(dict.fromkeys(keys, b"x"), Fault(kind="error", rate=0.3), seed=seed) for seed in (1, 2)}
    again = FaultyMapping(dict.fromkeys(keys, b"x"), Fault(kind="error", rate=0.3), seed=1)
    first = failing(made[1], keys)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(failing, [again] * 4, [keys[start::4][::-1] for start in range(4)])
        assert first == set().union(*parts)
    assert first != failing(made[2], keys)
    assert 80 < len(first) < 160
    assert failing(made[1], keys) != first  # the second call of a key has a lot of its own


def test_values_are_cut_and_bits_are_flipped_in_either_direction() -> None:
    """What is read is spoilt, or what is stored."""
    mapping = filled(Fault(kind="flipped-bit", operation="get", key="c/1"))
    mapping.inject(Fault(kind="truncated-value", operation="set"))
    assert mapping["c/1"] == b"\1\1\1\1\0\1\1\1"
    mapping["x"] = b"12345678"
    mapping.mend()
    assert (mapping["x"], mapping["c/1"]) == (b"1234", b"\1" * 8)


def test_a_stale_listing_shows_what_an_earlier_one_showed() -> None:
    """Keys written since are missing, removed ones are still there; values are read as they are."""
    mapping = filled(Fault(kind="stale-listing", operation="list", nth=1))
    mapping["new"] = b"1"
    del mapping["c/0"]
    stale, fresh = set(mapping), set(mapping)
    assert stale - fresh == {"c/0"}
    assert fresh - stale == {"new"}
    assert "c/0" not in mapping
    mapping.inject(Fault(kind="stale-listing", operation="list"))
    mapping["newer"] = b"2"
    assert set(mapping.children("")) == {"c", "new"}


def test_latency_and_hang() -> None:
    """A late call comes through; one that hangs does not before it is let go, or the mapping is closed."""
    mapping = filled(Fault(kind="latency", seconds=0.01), Fault(kind="hang", key="c/1"))
    assert mapping["c/0"] == b"\0" * 8
    for end in (mapping.end_hangs, mapping.close, mapping.mend):
        with ThreadPoolExecutor(1) as pool:
            held = mapping.hold("get", "c/1")
            call = pool.submit(mapping.__getitem__, "c/1")
            held.arrived.result(10)
            held.release()
            assert not call.done()
            end()
            assert call.result(10) == b"\1" * 8


def test_held_calls_force_an_interleaving() -> None:
    """A reader that has begun is overtaken by a writer, every time."""
    mapping = filled()
    order: list[str] = []

    def read() -> None:
        mapping["c/1"]
        order.append("read")

    with mapping.hold("get", "c/*") as held:
        reader = threading.Thread(target=read)
        reader.start()
        assert held.arrived.result(10) == ("get", "c/1")
        mapping["c/1"] = b"new"
        order.append("written")
    reader.join(10)
    assert order == ["written", "read"]
    assert mapping["c/1"] == b"new"


def test_it_pickles_with_its_faults(tmp_path: Any) -> None:
    """A worker meets the same faults; calls are its own."""
    mapping = FaultyMapping(SQLiteMapping(tmp_path / "x.db"), Fault(kind="error", operation="get"), seed=7)
    mapping["a"] = b"1"
    copy = pickle.loads(pickle.dumps(mapping))
    with pytest.raises(StoreUnavailableError):
        copy["a"]
    assert (mapping.count(), copy.count()) == (1, 1)
    assert copy == mapping
    assert repr(copy) == f"FaultyMapping({mapping.inner!r}, 1 faults, 1 calls)"
    copy.close()
    mapping.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "eror"}, "a fault is one of error"),
        ({"kind": "error", "rate": 2}, "rate is a share"),
        ({"kind": "error", "nth": 0}, "counts from 1"),
        ({"kind": "latency"}, "seconds is how long"),
        ({"kind": "error", "operation": "put"}, f"no operation is called 'put': they are {', '.join(OPERATIONS)}"),
    ],
)
def test_faults_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    """The message says what was expected."""
    with pytest.raises(StoreOptionError, match=words):
        Fault(**options)


def test_what_is_no_fault_is_refused() -> None:
    """A fault is a `Fault`."""
    with pytest.raises(StoreOptionError, match="said by Fault"):
        FaultyMapping({}, "error")  # type: ignore[arg-type]
