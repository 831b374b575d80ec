"""Ctrl-C, or whatever a signal handler raises, in the midst of any call of an archive."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.interrupts import interruptions
from tests.zip_files import content, sidecars
from zarrstream.mappings.zip import ZipMapping
from zarrstream.mappings.zip import pending as zip_spill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PUBLISHED = {"a": b"1", "b": b"2", "d/1": b"3", "d/2": b"4"}
PENDING = {"b": b"pending", "d/3": b"5"}
BEFORE = {**PUBLISHED, **PENDING}
BATCH = {"a": b"batch", "b": b"batch", "new": b"batch"}
WITHOUT = {key: value for key, value in BEFORE.items() if not key.startswith("d/")}

VERBS: dict[str, tuple[Callable[[ZipMapping], object], dict[str, bytes]]] = {
    "set": (lambda mapping: mapping.__setitem__("a", b"set"), {**BEFORE, "a": b"set"}),
    "delete": (lambda mapping: mapping.__delitem__("a"), {k: v for k, v in BEFORE.items() if k != "a"}),
    "setdefault": (lambda mapping: mapping.setdefault("new", b"default"), {**BEFORE, "new": b"default"}),
    "pop": (lambda mapping: mapping.pop("b"), {k: v for k, v in BEFORE.items() if k != "b"}),
    "update_many": (lambda mapping: mapping.update_many(BATCH), {**BEFORE, **BATCH}),
    "clear_under": (lambda mapping: mapping.clear_under("d"), WITHOUT),
    "read": (lambda mapping: (mapping["a"], mapping.read_many(["b"])), BEFORE),
    "flush": (lambda mapping: mapping.flush(), BEFORE),
    "close": (lambda mapping: mapping.close(), BEFORE),
}


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Return what another thread gets, which waits for no lock of this one."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(20)
    assert results, "another thread waits for a lock that nobody will give back"
    return results[0]


@pytest.mark.parametrize("first", [False, True], ids=["again", "first"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_interrupted_call_did_all_or_nothing_and_the_session_goes_on(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    """At each place where an exception can come: no half batch, no lock kept, and the next publication succeeds.

    ``first``: the call is also the one that takes the archive's lock and makes its spill.
    """
    monkeypatch.setattr(zip_spill, "_SLACK", 0)  # so that the spill is written anew, too
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of publications, and no power loss
    call, after = VERBS[verb]
    path = tmp_path / "x.zip"
    mapping = ZipMapping(path)
    before = PUBLISHED if first else BEFORE
    if first:
        after = {key: value for key, value in after.items() if PENDING.get(key) != value}
        after |= {key: PUBLISHED[key] for key in PENDING if key in PUBLISHED and key not in after and verb != "pop"}

    def prepare() -> None:
        mapping.revert()
        path.unlink(missing_ok=True)
        mapping.close()
        mapping.update_many(PUBLISHED)
        mapping.close()
        if not first:
            mapping.update_many(PENDING)

    prepare()
    for interruption in interruptions(lambda: call(mapping)):
        state = in_a_thread(lambda: dict(mapping))
        assert state in (before, after), interruption
        mapping["later"] = b"6"
        mapping.flush()
        assert content(path) == {**state, "later": b"6"}, interruption
        mapping["later"] = b"7"
        mapping.close()
        assert content(path) == {**state, "later": b"7"}, interruption
        assert sidecars(path) == []
        prepare()
    mapping.close()


def test_a_publication_that_is_interrupted_as_the_rename_returns_is_known_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new version is taken for what it is, and not for another program's; the next publication makes sure of it."""
    path = tmp_path / "x.zip"
    mapping = ZipMapping(path)
    mapping["a"] = b"1"
    mapping.flush()
    mapping["b"] = b"2"
    replace, synced = os.replace, []

    def interrupted(*given: Any) -> None:
        replace(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mapping.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", synced.append)
        mapping.flush()
    assert len(synced) == 1
    mapping["c"] = b"3"
    mapping.close()
    assert content(path) == {"a": b"1", "b": b"2", "c": b"3"}


def test_a_finalizer_that_is_interrupted_leaves_what_is_pending_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens the path again has it, and so has the end of the interpreter."""
    path = tmp_path / "x.zip"
    mapping = ZipMapping(path)
    mapping["a"] = b"1"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    lost: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        patched.setattr(sys, "unraisablehook", lambda told: lost.append(told.exc_type))
        del mapping
        gc.collect()
    assert lost == [KeyboardInterrupt]
    again = ZipMapping(path)
    assert again["a"] == b"1"
    again.close()
    assert content(path) == {"a": b"1"}
