"""Without faults the mock is what it wraps, verb by verb; with faults every verb meets them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from zarrstream.errors import StoreUnavailableError
from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import Fault
from zarrstream.mappings.base import ByteMapping
from zarrstream.mappings.sqlite import SQLiteMapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: How each verb is asked for, and the verb of the wrapped mapping by which it is done.
VERBS: dict[str, tuple[Callable[[ByteMapping], object], str]] = {
    "__getitem__": (lambda mapping: mapping["a"], "__getitem__"),
    "get": (lambda mapping: mapping.get("a"), "__getitem__"),
    "read": (lambda mapping: mapping.read("a", 1), "read"),
    "read_ranges": (lambda mapping: mapping.read_ranges("a", [(1, None)]), "read"),
    "read_many": (lambda mapping: mapping.read_many(["a"]), "read_many"),
    "size": (lambda mapping: mapping.size("a"), "size"),
    "size_many": (lambda mapping: mapping.size_many(["a"]), "size"),
    "sizes_under": (lambda mapping: list(mapping.sizes_under("")), "size"),
    "__contains__": (lambda mapping: "a" in mapping, "__contains__"),
    "__setitem__": (lambda mapping: mapping.__setitem__("a", b"2"), "__setitem__"),
    "setdefault": (lambda mapping: mapping.setdefault("new", b"2"), "setdefault"),
    "update": (lambda mapping: mapping.update({"a": b"2"}), "update_many"),
    "update_many": (lambda mapping: mapping.update_many({"a": b"2"}), "update_many"),
    "__delitem__": (lambda mapping: mapping.__delitem__("a"), "__delitem__"),
    "discard": (lambda mapping: mapping.discard("a"), "discard"),
    "pop": (lambda mapping: mapping.pop("a"), "pop"),
    "popitem": (lambda mapping: mapping.popitem(), "__getitem__"),
    "__iter__": (list, "keys_under"),
    "__len__": (len, "keys_under"),
    "__bool__": (bool, "keys_under"),
    "keys": (lambda mapping: list(mapping.keys()), "keys_under"),
    "values": (lambda mapping: list(mapping.values()), "__getitem__"),
    "items": (lambda mapping: list(mapping.items()), "__getitem__"),
    "keys_under": (lambda mapping: list(mapping.keys_under("")), "keys_under"),
    "children": (lambda mapping: list(mapping.children("d")), "children"),
    "clear": (lambda mapping: mapping.clear(), "clear_under"),
    "clear_under": (lambda mapping: mapping.clear_under("d"), "clear_under"),
    "flush": (lambda mapping: mapping.flush(), "flush"),
}
HELPERS = {"close"}


class Told(SQLiteMapping):
    """Notes which of its verbs are called from outside of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.told: list[str] = []


def _noting(name: str) -> Any:
    def method(self: Told, *given: Any, **more: Any) -> Any:
        self.told.append(name)
        return getattr(super(Told, self), name)(*given, **more)

    return method


for _verb in {name for _, name in VERBS.values()}:
    setattr(Told, _verb, _noting(_verb))


def test_every_verb_is_tried() -> None:
    names = {name for name, _ in inspect.getmembers(ByteMapping, inspect.isfunction) if not name.startswith("_")}
    assert names == {name for name in VERBS if not name.startswith("_")} | HELPERS


@pytest.mark.parametrize("verb", VERBS)
def test_without_faults_a_verb_is_that_of_what_is_wrapped(verb: str, tmp_path: Path) -> None:
    """So that it is as atomic, and costs as many calls."""
    plain, inner = SQLiteMapping(tmp_path / "plain.db"), Told(tmp_path / "x.db")
    mapping = FaultyMapping(inner)
    for made in (plain, inner):
        made.update_many({"a": b"1", "d/e": b"2"})
    inner.told.clear()
    ask, by = VERBS[verb]
    found = ask(mapping)
    expected = ask(plain)
    assert found == (expected if verb != "read" else bytes(expected))  # type: ignore[call-overload]
    assert inner.told[-1] == by or by in inner.told
    assert dict(inner) == dict(plain)
    plain.close()
    inner.close()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_meets_faults_and_is_recorded(verb: str) -> None:
    mapping = FaultyMapping({"a": b"1", "d/e": b"2"}, Fault(kind="error"))
    with pytest.raises(StoreUnavailableError, match="injected"):
        VERBS[verb][0](mapping)
    assert mapping.calls


def test_pop_is_read_and_removed_in_one_step() -> None:
    """Absent keys give the default; either of its two faults leaves the value, and a lost acknowledgement does not."""
    mapping = FaultyMapping({"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    assert (mapping.pop("a"), mapping.pop("a", None)) == (b"1", None)
    with pytest.raises(KeyError):
        mapping.pop("a")
    mapping.inject(
        Fault(kind="error", operation="get", key="b"),
        Fault(kind="error", operation="delete", key="c"),
        Fault(kind="lost-acknowledgement", operation="delete", key="d"),
    )
    for key in "bcd":
        with pytest.raises(StoreUnavailableError):
            mapping.pop(key, b"default")
    assert dict(mapping.inner) == {"b": b"2", "c": b"3"}
    assert [(call.operation, call.nbytes) for call in mapping.calls[:2]] == [("delete", 0), ("get", 1)]
