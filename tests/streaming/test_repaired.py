"""Metadata that zarr can read only repaired: what is written through us is found by every reader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from packaging.version import Version

from zarrstream import aio, open_store, write_stream

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(
        Version(zarr.__version__) < Version("3.4"), reason="older zarr reads these documents as they are"
    ),
    pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning"),
]


def legacy(folder: Path, zarr_format: int) -> tuple[Path, dict[str, Any]]:
    """Make an array whose document has a chunk size of 0, as older software stored it; return the document's path."""
    array = zarr.create_array(folder, shape=(4,), chunks=(1,), dtype="i4", zarr_format=zarr_format, compressors=None)
    path = folder / ("zarr.json" if array.metadata.zarr_format == 3 else ".zarray")
    document = json.loads(path.read_text())
    if zarr_format == 3:
        document["chunk_grid"]["configuration"]["chunk_shape"] = [0]
    else:
        document["chunks"] = [0]
    path.write_text(json.dumps(document))
    return path, document


def chunks_of(path: Path) -> list[int]:
    """Return the chunk shape in a stored document."""
    document = json.loads(path.read_text())
    found: list[int] = document.get("chunks") or document["chunk_grid"]["configuration"]["chunk_shape"]
    return found


@pytest.mark.parametrize("face", ["blocking", "awaited"])
@pytest.mark.parametrize("zarr_format", [2, 3])
async def test_a_repaired_document_is_stored_before_the_chunks(tmp_path: Path, zarr_format: int, face: str) -> None:
    """The chunk size that the chunks were written under is the one that is stored, as zarr itself does it."""
    path, _ = legacy(tmp_path / "a", zarr_format)
    array = zarr.open_array(open_store(tmp_path / "a"), mode="r+")
    seen: list[list[int]] = []

    def source() -> Any:
        for index in range(4):
            seen.append(chunks_of(path))
            yield (index,), np.full(1, index + 1, "i4")

    write = write_stream if face == "blocking" else aio.write_stream
    report: Any = write(array, source())
    report = report if face == "blocking" else await report
    assert report.written == 4
    assert seen == [[1]] * 4
    assert zarr.open_array(tmp_path / "a", mode="r")[...].tolist() == [1, 2, 3, 4]


def test_a_document_that_changed_meanwhile_is_an_error(tmp_path: Path) -> None:
    """Another chunk size was stored since the array was opened: nothing is written where no reader finds it."""
    path, document = legacy(tmp_path / "a", 2)
    array = zarr.open_array(open_store(tmp_path / "a"), mode="r+")
    path.write_text(json.dumps({**document, "chunks": [2]}))
    with pytest.raises(ValueError, match="reopen the array"):
        write_stream(array, [((0,), np.ones(1, "i4"))])
    assert not (tmp_path / "a" / "0").exists()
