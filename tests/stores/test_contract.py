"""Every mapping of the table makes a store that keeps zarr's laws: its test class, and both of its state machines."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.backends import Row, every_row, opened
from zarrstream import MappingStore
from zarrstream.errors import StoreOptionError
from zarrstream.testing import StoreLaws, check_hierarchy_machine, check_store_machine

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MutableMapping[str, bytes]]:
    yield from opened(row, tmp_path, request)


@every_row
class TestEveryStore(StoreLaws):
    async def test_serializable_store(self, store: MappingStore, row: Row) -> None:
        """It pickles; what is in memory as a copy, which it says; a shelf not at all, which it says as well."""
        if row.name in {"dict", "zict-func"}:
            with pytest.warns(UserWarning, match="is a copy"):
                await super().test_serializable_store(store)
        elif row.pickles:
            await super().test_serializable_store(store)
        else:
            with pytest.raises(StoreOptionError, match="cannot be pickled"):
                pickle.dumps(store)


@every_row
def test_single_keys_behave_as_in_a_dict(mapping: MutableMapping[str, bytes], row: Row) -> None:
    check_store_machine(MappingStore(mapping), examples=settings().max_examples // 2, steps=20)


@every_row
def test_hierarchies_behave_as_in_memory(mapping: MutableMapping[str, bytes], row: Row) -> None:
    check_hierarchy_machine(MappingStore(mapping), examples=settings().max_examples // 2, steps=12)
