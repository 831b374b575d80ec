"""What the server is asked: two queries for a value, ranges of an index for everything, and no cursor stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gridfs_buckets import BOTH, behind, bucket_of, counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.mappings.gridfs import GridFSMapping

pytestmark = pytest.mark.server
MIB = 1 << 20


@pytest.fixture(params=BOTH)
def mapping(request: pytest.FixtureRequest) -> Iterator[GridFSMapping]:
    yield from bucket_of(request.getfixturevalue(request.param))


@pytest.fixture
def database(mapping: GridFSMapping) -> Iterator[Any]:
    yield from behind(mapping)


def stock(mapping: GridFSMapping, database: Any, keys: list[str]) -> None:
    """Make empty files, all at once."""
    mapping["c"] = b""
    del mapping["c"]
    empty = {"length": 0, "chunkSize": 1000, "metadata": {"zarrstream": 1}}
    database["arrays.files"].insert_many([{**empty, "filename": f"exp/{key}"} for key in keys])


def queries(database: Any, work: Any) -> list[dict[str, Any]]:
    """Return what the server was asked while ``work`` ran."""
    database["system.profile"].drop()
    database.command("profile", 2)
    work()
    database.command("profile", 0)
    return [entry for entry in database["system.profile"].find() if "arrays." in entry["ns"]]


def test_a_read_is_two_queries_and_a_range_fetches_its_pieces(mapping: GridFSMapping, database: Any) -> None:
    mapping["small"] = bytes(1000)
    mapping["large"] = bytes(20 * MIB)
    for work, pieces in (
        (lambda: mapping["small"], 1),
        (lambda: mapping.read("large", MIB - 1, MIB + 1), 2),
        (lambda: mapping.read("large", -1), 1),
        (lambda: mapping.read_many(["small", "large"]), 21),
    ):
        asked = queries(database, work)
        assert [entry["op"] for entry in asked if entry["op"] != "getmore"] == ["query", "query"]
        assert sum(entry["nreturned"] for entry in asked if entry["ns"].endswith("chunks")) == pieces


def test_every_question_is_answered_by_an_index(mapping: GridFSMapping, database: Any) -> None:
    mapping.update_many((f"{name}/c/{number}", b"1") for name in "abc" for number in range(50))

    def work() -> None:
        mapping["a/c/7"] = b"2"
        assert mapping["a/c/7"] == b"2"
        assert mapping.read_many(["a/c/8", "b/c/9"])
        assert mapping.size("a/c/7") == 1
        assert mapping.setdefault("new", b"3") == b"3"
        assert len(mapping) == 151
        assert "x" not in mapping
        assert list(mapping.children("")) == ["a", "b", "c", "new"]
        del mapping["new"]
        mapping.clear_under("a")
        assert len(mapping) == 100

    plans = {entry.get("planSummary") for entry in queries(database, work)}
    assert any("IXSCAN { filename: 1" in str(plan) for plan in plans)
    assert not any("COLLSCAN" in str(plan) or "regex" in str(plan) for plan in plans)


def test_children_are_found_without_visiting_what_is_beneath(mapping: GridFSMapping, database: Any) -> None:
    """Hundreds of keys under three names are a few pages of 32."""
    stock(mapping, database, [f"{name}/c/{number}" for name in "abc" for number in range(300)])
    asked = queries(database, lambda: [list(mapping.children("")), list(mapping.children("b"))])
    assert sum(entry["nreturned"] for entry in asked) < 200
    assert sum(entry["keysExamined"] for entry in asked) < 250
    assert list(mapping.children("")) == ["a", "b", "c"]
    assert sorted(mapping.children("b/c")) == sorted(map(str, range(300)))


def test_a_listing_goes_on_over_many_pages_and_leaves_no_cursor(mapping: GridFSMapping, database: Any) -> None:
    keys = sorted(f"c/{number}" for number in range(1100))
    stock(mapping, database, keys)
    listing = iter(mapping)
    assert next(listing) == keys[0]
    opened = database.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"]
    assert opened == 0
    assert [keys[0], *listing] == keys
    mapping.clear()
    assert counts(database) == (0, 0)
