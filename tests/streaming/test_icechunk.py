"""Icechunk's sessions as stores: streams read and write them, and what is committed is what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tests.optional import require
from zarrstream import stream_chunks, stream_slices, write_stream
from zarrstream.identity import identity_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def icechunk() -> Any:
    """The module, with the runtime that it starts on first use and keeps until the process ends."""
    found = require("icechunk")
    found.Repository.create(found.in_memory_storage())
    return found


@pytest.fixture
def repository(icechunk: Any, tmp_path: Path) -> Any:
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repository")))


@pytest.mark.parametrize("shards", [None, (8, 6)])
def test_what_is_written_is_committed_and_read(repository: Any, shards: tuple[int, int] | None) -> None:
    """A commit after the stream holds every chunk; before it, another session sees none of them."""
    values = np.arange(96, dtype="i4").reshape(16, 6) + 1
    session = repository.writable_session("main")
    array = zarr.create_array(session.store, name="a", shape=(16, 6), chunks=(4, 3), shards=shards, dtype="i4")
    session.commit("made")
    session = repository.writable_session("main")
    array = zarr.open_array(session.store, path="a", mode="r+")
    report = write_stream(array, [(np.s_[0:16, 0:6], values)])
    assert (report.written, report.failed) == (8, 0)
    before = zarr.open_array(repository.readonly_session("main").store, path="a", mode="r")
    assert not any(chunk.data.any() for chunk in stream_chunks(before))
    assert not list(stream_chunks(before, include_missing=False))
    session.commit("written")
    after = zarr.open_array(repository.readonly_session("main").store, path="a", mode="r")
    got = np.zeros_like(values)
    for chunk in stream_chunks(after, include_missing=False):
        got[chunk.region] = chunk.data
    assert np.array_equal(got, values)
    for part in stream_slices(after, 0, thickness=3):
        assert np.array_equal(part.data, values[part.region])


def test_a_session_is_no_identity(repository: Any) -> None:
    """Its display string tells of a snapshot, and of no repository: a checkpoint is refused without a name for it."""
    assert identity_of(repository.writable_session("main").store) is None
