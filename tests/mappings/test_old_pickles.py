"""Pickles of mappings that were made before each back end became a folder."""

from __future__ import annotations

import importlib
import pickle
from typing import TYPE_CHECKING

import pytest

from tests.backends import Row, every_row, opened
from zarrstream.mappings.base import ByteMapping

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

CLASSES = {
    "gridfs": "GridFSMapping",
    "lmdb": "LMDBMapping",
    "postgresql": "PostgreSQLMapping",
    "shm": "SharedMemoryMapping",
    "sqlite": "SQLiteMapping",
    "zip": "ZipMapping",
}


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MutableMapping[str, bytes]]:
    yield from opened(row, tmp_path, request)


@every_row
def test_a_pickle_by_the_old_name_of_a_module_is_the_same_mapping(mapping: MutableMapping[str, bytes]) -> None:
    """The folder has the name that the module had, and gives the class."""
    kind = type(mapping)
    package, _, module = kind.__module__.rpartition(".")
    if not isinstance(mapping, ByteMapping) or module != "mapping" or "mappings" not in package:
        assert package.rpartition(".")[2] not in CLASSES
        return
    mapping["k"] = b"1"
    mapping.flush()
    new = f"{kind.__module__}\n".encode()
    pickled = pickle.dumps(mapping, protocol=0)
    assert new in pickled
    again = pickle.loads(pickled.replace(new, f"{package}\n".encode()))
    assert again == mapping
    assert type(again) is kind
    again.close()


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_has_nothing_else(name: str) -> None:
    """An unknown name is an AttributeError, as of any module, and loads no driver."""
    folder = importlib.import_module(f"zarrstream.mappings.{name}")
    assert folder.__all__ == [CLASSES[name]]
    with pytest.raises(AttributeError, match=rf"zarrstream\.mappings\.{name}.* has no attribute 'nothing'"):
        folder.nothing  # noqa: B018  # asked for its absence
