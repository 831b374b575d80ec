"""What has been seen of a hierarchy: by which a lost place is told from an empty one."""

from __future__ import annotations

import json

import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from zarrstream.mappings.absence import SeenNodes


def test_no_node_is_forgotten_for_others() -> None:
    """However many are opened."""
    seen = SeenNodes()
    for at in range(20_000):
        seen.saw(f"a{at}/zarr.json")
    assert seen.node_of("a0/c/0") == "a0"


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_tell_of_their_nodes(zarr_format: int) -> None:
    """An array that is opened by them is missed by its own metadata, and not by the group's."""
    store = MemoryStore()
    group = zarr.create_group(store, path="root", zarr_format=zarr_format)  # type: ignore[arg-type]  # 2 or 3
    group.create_group("g").create_array("t2m", shape=4, chunks=2, dtype="i4")
    zarr.consolidate_metadata(store, path="root", zarr_format=zarr_format)  # type: ignore[arg-type]  # as above
    key = "root/zarr.json" if zarr_format == 3 else "root/.zmetadata"
    seen = SeenNodes()
    seen.saw(key, store._store_dict[key].to_bytes())
    assert seen.node_of("root/g/t2m/c/0") == "root/g/t2m"
    assert seen.node_of("root/g/t2m/0") == "root/g/t2m"


@pytest.mark.parametrize(
    "value", [b"", b"no json, but metadata", b"[1]", b'{"metadata": 5}', json.dumps("metadata").encode()]
)
def test_a_document_that_is_none_tells_nothing(value: bytes) -> None:
    """zarr says so to whoever opens it."""
    seen = SeenNodes()
    seen.saw("zarr.json", cpu.Buffer.from_bytes(value).as_numpy_array())
    assert list(seen) == [""]


def test_what_could_not_be_removed_is_remembered() -> None:
    """A delete that is refused leaves the protection as it was."""
    seen = SeenNodes()
    for key in ("a/zarr.json", "a/b/.zarray", "ab/zarr.json"):
        seen.saw(key)
    for how in ({"keys": ("a/zarr.json",)}, {"under": "a"}):
        with pytest.raises(PermissionError), seen.removing(**how):  # type: ignore[arg-type]  # one of both
            raise PermissionError
        assert set(seen) == {"a", "a/b", "ab"}
    with seen.removing(under="a"):
        assert set(seen) == {"ab"}
    assert set(seen) == {"ab"}
