"""What fsspec's verbs do on a mapping: as atomic as it is, with as few calls as it needs, and within what was named."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import fsspec.utils
import pytest

from zarrstream.faults.mapping import FaultyMapping
from zarrstream.filesystem import MappingFileSystem, SQLiteFileSystem
from zarrstream.mappings.sqlite import SQLiteMapping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = {f"g/{number:03}/c": bytes(number) for number in range(50)}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SQLiteFileSystem]:
    made = SQLiteFileSystem(str(tmp_path / "x.db"))
    yield made
    made.mapping.close()


def test_of_many_that_create_a_file_one_does(tmp_path: Path) -> None:
    """All have seen that it is absent before the first writes."""
    mapping = FaultyMapping(SQLiteMapping(tmp_path / "x.db"))
    files = MappingFileSystem(mapping, "/a/root")
    results: list[str] = []

    def create(number: int) -> None:
        try:
            files.pipe_file("/a/root/k", b"%d" % number, mode="create")
        except FileExistsError:
            results.append("exists")
        else:
            results.append("created")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    with mapping.hold("set_new", "k") as held:
        for thread in threads:
            thread.start()
        held.arrived.result(20)
        while mapping.count("contains", "k") < 4:
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert sorted(results) == ["created", "exists", "exists", "exists"]
    mapping.close()


def test_removing_goes_no_deeper_than_it_is_told(files: SQLiteFileSystem) -> None:
    keys = ("d", "d/1", "d/2", "d/deep/3", "d/deep/er/4", "e")
    for maxdepth, left in ((1, ["d/deep/3", "d/deep/er/4", "e"]), (2, ["d/deep/er/4", "e"]), (None, ["e"])):
        files.mapping.update_many((key, b"") for key in keys)
        files.rm(f"{files.root}/d", recursive=True, maxdepth=maxdepth)
        assert sorted(files.mapping) == left
    with pytest.raises(ValueError, match="at least 1"):
        files.find(files.root, maxdepth=0)


def test_a_folder_is_no_file_to_be_opened(files: SQLiteFileSystem) -> None:
    """As in fsspec's own file systems; of what is both, the file is."""
    files.mapping.update({"a": b"file", "a/b": b"1", "d/c": b"2"})
    with files.open(f"{files.root}/a") as file:
        assert file.read() == b"file"
    with pytest.raises(IsADirectoryError):
        files.open(f"{files.root}/d")
    with pytest.raises(FileNotFoundError):
        files.open(f"{files.root}/absent")


@pytest.mark.parametrize("newest", [True, False])
def test_no_name_leads_out_of_the_folder_that_it_is_copied_to(
    files: SQLiteFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, newest: bool
) -> None:
    """fsspec of 2026 sees to it; for older ones we do."""
    if not newest:
        monkeypatch.delattr(fsspec.utils, "check_contained", raising=False)
        monkeypatch.setattr("fsspec.spec.check_contained", lambda *_: None, raising=False)
    files.mapping.update({"k": b"1", "../../slipped": b"2"})
    out = tmp_path / "deep" / "out"
    with pytest.raises(ValueError, match=r"outside"):
        files.get(files.root, str(out), recursive=True)
    assert not (tmp_path / "slipped").exists()
    del files.mapping["../../slipped"]
    files.get(files.root, str(out), recursive=True)
    assert [name.name for name in out.rglob("*") if name.is_file()] == ["k"]


def test_sizes_come_with_the_listing(files: SQLiteFileSystem, tmp_path: Path) -> None:
    """No call for each name: with details a listing costs a call more at most, or one for each thousand names."""
    inner = SQLiteMapping(tmp_path / "x.db")
    inner.update(KEYS)
    calls: list[str] = []

    class Counting(SQLiteMapping):
        def __getattribute__(self, name: str) -> Any:
            if name in {"size", "__contains__", "children", "keys_under", "size_many", "sizes_under"}:
                calls.append(name)
            return super().__getattribute__(name)

    shown = MappingFileSystem(Counting(tmp_path / "x.db"), files.root)
    root = files.root
    assert shown.find(root, detail=True) == {
        f"{root}/{key}": {"name": f"{root}/{key}", "size": len(value), "type": "file"} for key, value in KEYS.items()
    }
    assert calls == ["sizes_under", "keys_under", "size_many"]
    calls.clear()
    assert len(shown.ls(f"{root}/g")) == 50
    assert calls == ["children", "size_many"]
    calls.clear()
    assert shown.du(root) == sum(map(len, KEYS.values()))
    assert shown.du(root, total=False)[f"{root}/g/007/c"] == 7
    assert calls == ["sizes_under", "keys_under", "size_many"] * 2
    calls.clear()
    assert len(shown.glob(f"{root}/g/00?/*", detail=True)) == 10
    assert len(calls) < 9
    shown.mapping.close()
    inner.close()
