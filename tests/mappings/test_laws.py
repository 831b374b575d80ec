"""Every mapping of the table keeps the laws of mappings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends import Row, contract, every_row, opened
from zarrstream.testing import MappingLaws

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zarrstream.mappings.base import ByteMapping


@every_row
class TestEveryMapping(MappingLaws):
    @pytest.fixture
    def mapping(self, row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ByteMapping]:
        for made in opened(row, tmp_path, request):
            yield contract(made)
