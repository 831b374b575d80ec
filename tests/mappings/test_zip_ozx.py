"""OME-Zarr in one archive: what its comment promises is kept."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.zip_files import content
from zarrstream.mappings.zip import ZipMapping

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("first", [True, False])
def test_metadata_stay_first_where_the_archive_says_so(tmp_path: Path, *, first: bool) -> None:
    """OME-NGFF's RFC 9: the root's document, then the others level by level, at the head of the directory."""
    comment = json.dumps({"ome": {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": first}}}}).encode()
    path = tmp_path / "x.ozx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for name in ("zarr.json", "0/zarr.json", "0/c/0", "0/c/1"):
            archive.writestr(name, b"{}")
    mapping = ZipMapping(path)
    mapping.update_many({"deep/er/zarr.json": b"{}", "b/zarr.json": b"{}", "zarr.json": b"{ }"})
    mapping.close()
    content(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == comment
        names = archive.namelist()
    chunks = ["0/c/0", "0/c/1"]
    written = ["deep/er/zarr.json", "b/zarr.json", "zarr.json"]
    if first:
        assert names == ["zarr.json", "0/zarr.json", "b/zarr.json", "deep/er/zarr.json", *chunks]
    else:
        assert names == ["0/zarr.json", *chunks, *written]
