"""Many parts of one value, asked for together: what zarr asks for a shard's chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from tests.backends import Row, contract, every_row, opened
from tests.values import PROTOTYPE, buffer
from zarrstream import MappingStore
from zarrstream.mappings.sqlite import SQLiteMapping

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

VALUE = bytes(range(256)) * 40
SPANS: list[tuple[int, int | None]] = [(9000, 9100), (0, 1), (5, 5), (-30, None), (10_000, None), (9_999, 20_000)]


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MutableMapping[str, bytes]]:
    yield from opened(row, tmp_path, request)


@every_row
def test_the_parts_of_a_value_are_its_slices(mapping: MutableMapping[str, bytes]) -> None:
    """In the order in which they were asked for; the parts of an absent value are a KeyError."""
    mapping["k"] = VALUE
    assert [bytes(part) for part in contract(mapping).read_ranges("k", SPANS)] == [VALUE[a:b] for a, b in SPANS]
    assert contract(mapping).read_ranges("k", []) == []
    with pytest.raises(KeyError):
        contract(mapping).read_ranges("none", SPANS)


if hasattr(Store, "get_ranges_sync"):  # zarr 3.4 and later

    @every_row
    async def test_ranges_are_zarrs(mapping: MutableMapping[str, bytes]) -> None:
        """Both doors give what zarr's own do, and zarr's group of errors where the key is absent."""
        store = MappingStore(mapping)
        await store.set("k", buffer(VALUE))
        wanted: Any = [RangeByteRequest(9, 99), None, SuffixByteRequest(7), OffsetByteRequest(10_000)]
        expected = [VALUE[9:99], VALUE, VALUE[-7:], VALUE[10_000:]]
        found: dict[int, bytes] = {}
        async for group in store.get_ranges("k", wanted, prototype=PROTOTYPE):
            found.update({number: value.to_bytes() for number, value in group if value is not None})
        assert [found[number] for number in range(4)] == expected
        for number, value in store.get_ranges_sync("k", wanted, prototype=PROTOTYPE):
            assert value is not None
            assert value.to_bytes() == expected[number]
        with pytest.raises(BaseExceptionGroup) as caught:
            store.get_ranges_sync("none", wanted, prototype=PROTOTYPE)
        assert {type(error) for error in caught.value.exceptions} == {FileNotFoundError}
        with pytest.raises(BaseExceptionGroup) as caught:
            [_ async for _ in store.get_ranges("none", wanted, prototype=PROTOTYPE)]
        store.close()

    def test_sqlite_answers_many_ranges_in_one_transaction(tmp_path: Path) -> None:
        """The pages of a large value are a list that SQLite walks from its beginning each time it is opened."""
        store = MappingStore(SQLiteMapping(tmp_path / "x.db"))
        store.set_sync("k", buffer(VALUE))
        calls: list[str] = []
        connection = store.mapping._file._links.get().connection  # type: ignore[attr-defined]
        connection.set_trace_callback(calls.append)
        store.get_ranges_sync("k", [RangeByteRequest(n, n + 1) for n in range(50)], prototype=PROTOTYPE)
        connection.set_trace_callback(None)
        assert sum(call.startswith("BEGIN") for call in calls) == 1
        store.close()
