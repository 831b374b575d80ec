"""Every back end of the table, traced: which database it is, and whether another process answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.backends import Row, every_row, opened
from zarrstream import MappingStore, TracedStore, stream_chunks, write_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sight.conftest import Seen

DATABASES = {"sqlite": "sqlite", "lmdb": "lmdb", "shm": "lmdb", "mongodb": "mongodb", "postgresql": "postgresql"}


@pytest.fixture
def mapping(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from opened(row, tmp_path, request)


@every_row
def test_a_back_end_says_which_database_it_is(seen: Seen, row: Row, mapping: Any) -> None:
    """A server's operations are a client's spans, others are not; and no span knows an address or a credential."""
    inner = MappingStore(mapping)
    array = zarr.create_array(TracedStore(inner), shape=(8,), chunks=(2,), dtype="i4", fill_value=-1)
    write_stream(array, [((number,), np.full(2, number, "i4")) for number in range(4)])
    assert [int(chunk.data[0]) for chunk in stream_chunks(array)] == [0, 1, 2, 3]
    kind = (inner.place or "MappingStore").partition(":")[0]
    database = DATABASES.get(kind)
    operations = [span for span in seen.spans() if span.name.startswith("zarrstream.store.")]
    streams = seen.spans("zarrstream.stream")
    assert {span.attributes["zarrstream.store"] for span in (*operations, *streams)} == {kind}
    assert {span.attributes.get("db.system.name") for span in (*operations, *streams)} == {database}
    assert {span.kind.name for span in operations} == {
        "CLIENT" if database in {"mongodb", "postgresql"} else "INTERNAL"
    }
    assert not [value for span in seen.spans() for value in span.attributes.values() if "://" in str(value)]
    assert (database is not None) == (row.name.partition("-")[0] in {*DATABASES, "faulty"})
