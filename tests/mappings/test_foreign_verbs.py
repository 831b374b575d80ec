"""What a foreign mapping's class overrides is what is called, for every verb; and what it holds is read as it is."""

from __future__ import annotations

import inspect
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from zarrstream import MappingStore
from zarrstream.errors import PartialWriteError, StoreCorruptError
from zarrstream.mappings.base import ByteMapping
from zarrstream.mappings.foreign import ForeignMapping

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

#: Each verb of the contract: how it is asked for, and the methods of which one, at least, is the mapping's.
VERBS: dict[str, tuple[Callable[[ByteMapping], object], str, tuple[str, ...]]] = {
    "[]": (lambda mapping: mapping["a"], "__getitem__", ()),
    "read": (lambda mapping: mapping.read("a", 1), "__getitem__", ()),
    "read_ranges": (lambda mapping: mapping.read_ranges("a", [(1, None)]), "__getitem__", ()),
    "read_many": (lambda mapping: mapping.read_many(["a"]), "__getitem__", ()),
    "size": (lambda mapping: mapping.size("a"), "__getitem__", ()),
    "items": (lambda mapping: list(mapping.items()), "__getitem__", ()),
    "get": (lambda mapping: mapping.get("a"), "get", ("__getitem__",)),
    "[]=": (lambda mapping: mapping.__setitem__("a", b"2"), "__setitem__", ()),
    "del": (lambda mapping: mapping.__delitem__("a"), "__delitem__", ()),
    "discard": (lambda mapping: mapping.discard("a"), "__delitem__", ()),
    "in": (lambda mapping: "a" in mapping, "__contains__", ()),
    "iter": (list, "__iter__", ()),
    "len": (len, "__len__", ()),
    "pop": (lambda mapping: mapping.pop("a"), "pop", ("__getitem__", "__delitem__")),
    "popitem": (lambda mapping: mapping.popitem(), "popitem", ("__getitem__", "__delitem__")),
    "setdefault": (lambda mapping: mapping.setdefault("new", b"2"), "setdefault", ("__setitem__",)),
    "setdefault of what is there": (lambda mapping: mapping.setdefault("a", b"2"), "setdefault", ("__getitem__",)),
    "update": (lambda mapping: mapping.update({"b": b"2"}), "update", ("__setitem__",)),
    "update_many": (lambda mapping: mapping.update_many({"b": b"2"}), "update", ("__setitem__",)),
    "clear": (lambda mapping: mapping.clear(), "clear", ("__delitem__",)),
    "clear_under the root": (lambda mapping: mapping.clear_under(""), "clear", ("__delitem__",)),
    "clear_under": (lambda mapping: mapping.clear_under("d"), "__delitem__", ()),
    "==": (lambda mapping: mapping == ForeignMapping(type(mapping.wrapped)()), "__eq__", ()),  # type: ignore[attr-defined]
}
BASES = [dict, OrderedDict, UserDict, defaultdict]
METHODS = sorted({name for _, own, parts in VERBS.values() for name in (own, *parts)})


def recording(base: type, methods: set[str], calls: list[str]) -> Any:
    """Return a mapping of a subclass that overrides some methods, and notes that they are called."""

    def override(name: str) -> Any:
        def method(self: Any, *given: Any, **more: Any) -> Any:
            calls.append(name)
            return getattr(super(kind, self), name)(*given, **more)

        return method

    kind = type("Recording", (base,), {"__hash__": None, **{name: override(name) for name in methods}})
    return kind()


def filled(base: type, methods: set[str], calls: list[str]) -> ForeignMapping:
    made = recording(base, methods, calls)
    mapping = ForeignMapping(made)
    mapping["a"], mapping["d/e"] = b"1", b"2"
    calls.clear()
    return mapping


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=100, deadline=None)
@given(verb=st.sampled_from(sorted(VERBS)), methods=st.sets(st.sampled_from(METHODS), max_size=4))
def test_what_a_class_overrides_is_what_is_called(base: type, verb: str, methods: set[str]) -> None:
    """The verb where it overrides that; or else the methods of which the verb is made, where it overrides those."""
    calls: list[str] = []
    mapping = filled(base, methods, calls)
    ask, own, parts = VERBS[verb]
    ask(mapping)
    if own in methods:
        assert own in calls
    else:
        assert set(parts) & methods <= set(calls)


def test_every_verb_of_the_contract_is_tried() -> None:
    """Those above, and those that only hand the mapping's own bytes on."""
    passed_on = {"children", "keys_under", "size_many", "sizes_under", "keys", "values", "close", "flush"}
    names = {name for name, _ in inspect.getmembers(ByteMapping, inspect.isfunction) if not name.startswith("_")}
    assert names <= passed_on | {verb.partition(" ")[0] for verb in VERBS}


class Encrypting(dict[str, bytes]):
    """Holds every byte the other way round; its inherited verbs know nothing of that."""

    def __getitem__(self, key: str) -> bytes:
        return bytes(byte ^ 0xFF for byte in super().__getitem__(key))

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, bytes(byte ^ 0xFF for byte in value))


def test_no_verb_passes_by_a_class_that_encrypts() -> None:
    inner = Encrypting()
    mapping = ForeignMapping(inner)
    mapping.update({"a": b"1", "b": b"2"})
    assert mapping.setdefault("c", b"3") == b"3"
    assert {bytes([value[0] ^ 0xFF]) for value in dict.values(inner)} == {b"1", b"2", b"3"}
    assert (mapping["a"], mapping.get("b"), mapping.setdefault("c", b"4")) == (b"1", b"2", b"3")
    assert dict(mapping.items()) == {"a": b"1", "b": b"2", "c": b"3"}
    assert mapping.pop("a") == b"1"
    assert sorted([mapping.popitem(), mapping.popitem()]) == [("b", b"2"), ("c", b"3")]
    with pytest.raises(KeyError):
        mapping.popitem()


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_verb_has_a_missing_value_stored(verb: str) -> None:
    """A ``__missing__`` would store, and answer for, what is not there."""

    class Made(UserDict[str, bytes]):
        def __missing__(self, key: str) -> bytes:
            self[key] = b"made"
            return b"made"

    wrappeds: tuple[MutableMapping[str, bytes], ...] = (Made(), defaultdict(lambda: b"made"))
    for wrapped in wrappeds:
        mapping = ForeignMapping(wrapped)
        with suppress(KeyError):
            VERBS[verb][0](mapping)
        assert b"made" not in list(wrapped.values())
        assert MappingStore(wrapped).get_sync("absent") is None
        assert "absent" not in wrapped


def test_a_batch_that_breaks_off_in_the_mappings_own_update_says_what_is_there() -> None:
    class Small(dict[str, bytes]):
        def update(self, other: Any = (), /, **_: Any) -> None:
            for key, value in other.items():
                if len(self) == 2:
                    raise RuntimeError("full")
                self[key] = value

    mapping = ForeignMapping(Small())
    with pytest.raises(PartialWriteError) as caught:
        mapping.update_many({"a": b"1", "b": b"2", "c": b"3"})
    assert caught.value.written == ("a", "b")
    with pytest.raises(RuntimeError, match="full"):
        mapping.update_many({"c": b"3"})


# -- what it holds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [8, [1, 2], "text", None, 1.5, np.array([1, None], object)], ids=repr)
@pytest.mark.parametrize("verb", ["[]", "read", "size", "get", "pop", "setdefault of what is there", "popitem"])
def test_a_value_that_is_no_bytes_is_an_error(value: Any, verb: str) -> None:
    """A number would be that many zeros, a list its items, an array of objects their addresses."""
    mapping = ForeignMapping({"a": value})
    with pytest.raises(StoreCorruptError, match=r"'a'.* is a .*, and no bytes"):
        VERBS[verb][0](mapping)


def test_buffers_are_read_as_bytes() -> None:
    """zarr's own, which its MemoryStore puts into the dict that it is given, and any other."""
    content: dict[str, Any] = {}
    store = MemoryStore(content)
    store.set_sync("zarr", cpu.Buffer.from_bytes(b"12")) if hasattr(store, "set_sync") else content.update(
        zarr=cpu.Buffer.from_bytes(b"12")
    )
    content.update(array=np.array([1, 2], "u1"), view=memoryview(b"1x2x")[::2], bytearray=bytearray(b"12"))
    mapping = ForeignMapping(content)
    assert {key: mapping[key] for key in content} == {
        "zarr": b"12",
        "array": b"\1\2",
        "view": b"12",
        "bytearray": b"12",
    }
    assert mapping.size("zarr") == 2


def test_a_key_that_is_no_text_is_told() -> None:
    """Once keys are listed; a value is read nevertheless."""
    wrapped: Any = {"a": b"1", 7: b"2"}
    mapping = ForeignMapping(wrapped)
    assert mapping["a"] == b"1"
    for ask in (list, lambda mapping: list(mapping.keys_under("")), lambda mapping: mapping.clear_under("x")):
        with pytest.raises(StoreCorruptError, match="no text, 7"):
            ask(mapping)


def test_items_that_look_like_methods_are_items() -> None:
    """As in a mapping whose attributes are its items."""

    class Attributes(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            return self.setdefault(name, Attributes())

    mapping = ForeignMapping(Attributes())
    assert mapping.durable_on_write
    mapping.flush()
    assert list(mapping) == []


def test_a_chain_of_mappings_is_read_through() -> None:
    mapping = ForeignMapping(ChainMap({}, {"a": b"1"}))
    assert mapping["a"] == mapping.get("a") == b"1"
    assert mapping.get("absent", b"none") == b"none"
