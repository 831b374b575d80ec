"""PostgreSQL: URLs and options, the table, and what a call costs."""

# ruff: noqa: F811, S608  # fixtures are imported, and asked for by name; the statements' tables are ours

from __future__ import annotations

import gc
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import zarr

from tests.postgresql_tables import PostgreSQLMapping, admin, mapping, one, psycopg, table  # noqa: F401  # fixtures
from tests.services import postgresql_url
from zarrstream import MappingStore, open_store
from zarrstream.errors import StoreOptionError
from zarrstream.mappings.postgresql import statements as sql

if TYPE_CHECKING:
    from tests.programs import Server

# -- without a server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://ann:s3cret@Host/db", "postgresql://host:5432/db/zarr?array_id=default"),
        ("postgres://host/db", "postgresql://host:5432/db/zarr?array_id=default"),
        ("host=host dbname=db password=s3cret", "postgresql://host:5432/db/zarr?array_id=default"),
        (
            "postgresql://ann:s3cret@b:1,a:2/db?target_session_attrs=read-write&password=s3cret",
            "postgresql://b:1,a:2/db/zarr?array_id=default",
        ),
        ("postgresql://[::1]:77/d%20b", "postgresql://[::1]:77/d%20b/zarr?array_id=default"),
        ("postgresql://ann@/?service=abc", "postgresql://service=abc/ann/zarr?array_id=default"),
    ],
)
def test_the_place_has_hosts_in_their_order_and_no_credentials(
    url: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    mapping = PostgreSQLMapping(url)
    assert mapping.place == place
    for text in (repr(mapping), str(MappingStore(mapping)), repr(MappingStore(mapping))):
        assert "s3cret" not in text
        assert "ann:" not in text
    copy = pickle.loads(pickle.dumps(mapping))
    assert copy == mapping


def test_the_place_tells_tables_and_array_ids_apart() -> None:
    places = {
        PostgreSQLMapping("postgresql://h/d", table_name=name, array_id=array_id).place
        for name in ("t", "s.t", "a/b")
        for array_id in ("x", "y?", "é&")
    }
    assert len(places) == 9


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3@cret@host/db",
        "postgresql://ann:s3cret/x@host/db",
        "postgresql://ann:s3cret%@host/db",
        "postgresql://ann:s3cret@host:port/db",
        "postgresql://ann:s3cret@host/db?option=1",
        "s3cret",
        5,
    ],
)
def test_a_url_that_is_none_is_not_repeated(url: Any) -> None:
    """What is not understood may be the password: neither the error nor anything behind it shows a part of it."""
    with pytest.raises(StoreOptionError, match="percent-encoded") as caught:
        PostgreSQLMapping(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table_name": ""}, "table_name"),
        ({"table_name": "a.b.c"}, "table_name"),
        ({"table_name": "x" * 64}, "63 bytes"),
        ({"table_name": None}, "table_name"),
        ({"array_id": ""}, "array_id"),
        ({"array_id": "a\0b"}, "array_id"),
        ({"durability": "fulll"}, "'full', 'local' or 'off'"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"reconnect_timeout": -1}, "reconnect_timeout"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_connections": "3"}, "max_connections"),
        ({"table": "t"}, "did you mean 'table_name'"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreOptionError, match=message):
        open_store("postgresql://host/db", **options)


def test_both_names_of_the_scheme_are_one() -> None:
    assert open_store("postgresql://host/db", array_id="x") == open_store("postgres://host/db", array_id="x")


def test_a_file_system_tells_no_credentials() -> None:
    """What follows the database is the key; hosts stay as they are, and user, password and options are the driver's."""
    url = "postgresql://ann:s3cret@a:1,b:2/db/group/array?target_session_attrs=read-write"
    files, path = fsspec.url_to_fs(url, table_name="t", array_id="x")
    assert path == "a:1,b:2/db/group/array"
    assert (files.root, files.fsid) == ("a:1,b:2/db", "postgresql://a:1,b:2/db/t?array_id=x")
    assert "target_session_attrs=read-write" in files.mapping._session.database.url
    assert files.unstrip_protocol(path) == "postgresql://a:1,b:2/db/group/array"
    assert "s3cret" not in f"{files!r} {files} {files.mapping!r}"
    with pytest.raises(StoreOptionError, match="which database"):
        fsspec.filesystem("postgresql")
    with pytest.raises(StoreOptionError, match="which database"):
        fsspec.url_to_fs("postgresql://host")


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_reading_makes_no_table_and_the_first_write_does(mapping: PostgreSQLMapping, admin: Any, table: str) -> None:
    assert not mapping
    assert list(mapping) == list(mapping.children("")) == []
    assert "k" not in mapping
    mapping.clear()
    mapping.discard("k")
    assert mapping.pop("k", None) is None
    assert one(admin, "SELECT to_regclass(%s)", table) is None
    mapping["k"] = b"1"
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'value'"
    assert one(admin, storage, table) == "e"
    collations = "SELECT count(*) FROM pg_attribute JOIN pg_collation c ON c.oid = attcollation WHERE collname = 'C'"
    assert one(admin, f"{collations} AND attrelid = %s::regclass", table) == 2
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
    assert one(admin, key, table) == "PRIMARY KEY (array_id, key)"


@pytest.mark.server
def test_two_arrays_in_one_table_do_not_see_each_other(postgresql: Server, table: str) -> None:
    url = postgresql_url(postgresql)
    stores = [open_store(url, table_name=table, array_id=array_id) for array_id in ("a", "a/b", "a%")]
    for number, store in enumerate(stores, start=1):
        zarr.create_array(store, shape=(8,), chunks=(2,), dtype="i4", fill_value=0)[:] = number
    for number, store in enumerate(stores, start=1):
        assert np.all(zarr.open_array(store, mode="r")[:] == number)
        assert len(store.mapping) == 5  # type: ignore[attr-defined]
    stores[0].mapping.clear()  # type: ignore[attr-defined]
    assert [len(store.mapping) for store in stores] == [0, 5, 5]  # type: ignore[attr-defined]
    for store in stores:
        store.close()


@pytest.mark.server
@pytest.mark.parametrize("name", ['quo"te', "per%cent", "ä b", "Upper", "select", "x" * 63])
def test_a_table_may_have_any_name(postgresql: Server, admin: Any, name: str) -> None:
    mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=name)
    mapping["k"] = b"1"
    mapping.update_many((f"k{number}", b"1") for number in range(100))
    assert len(mapping) == 101
    assert list(mapping.children("")) == sorted(mapping)
    with MappingStore(mapping).snapshot() as snap:
        assert "k" in snap.mapping
    assert one(admin, "SELECT count(*) FROM pg_class WHERE relname = %s", name) == 1
    mapping.close()


@pytest.mark.server
def test_a_table_may_lie_in_a_schema(postgresql: Server, admin: Any, table: str) -> None:
    admin.execute(f"CREATE SCHEMA s{table[:20]}")
    mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=f"s{table[:20]}.zarr")
    mapping["k"] = b"1"
    assert one(admin, f"SELECT count(*) FROM s{table[:20]}.zarr") == 1
    mapping.close()


@pytest.mark.server
def test_a_range_is_read_without_the_rest(mapping: PostgreSQLMapping, admin: Any, table: str) -> None:
    """Of 8 MiB, 4 KiB in the middle take a few of the 1,000 pages; so do the size, and a suffix."""
    value = os.urandom(8 << 20)
    mapping["k"] = value
    hits = "SELECT toast_blks_hit + toast_blks_read FROM pg_statio_user_tables WHERE relname = %s"

    def pages() -> int:
        mapping._session.call(lambda connection: connection.execute("SELECT pg_stat_force_next_flush()"))
        mapping.size("k")
        admin.execute("SELECT pg_stat_clear_snapshot()")
        return int(one(admin, hits, table))

    before = pages()
    assert mapping.read("k", 4 << 20, (4 << 20) + 4096) == value[4 << 20 : (4 << 20) + 4096]
    assert mapping.read("k", -4096) == value[-4096:]
    assert mapping.size("k") == 8 << 20
    assert pages() - before < 40
    assert mapping["k"] == value
    assert pages() - before > 1000


@pytest.mark.server
@pytest.mark.parametrize("count", [1, sql.ROWS_FOR_COPY - 1, sql.ROWS_FOR_COPY, 3000])
def test_many_values_are_one_transaction(mapping: PostgreSQLMapping, admin: Any, table: str, count: int) -> None:
    """By COPY or by single upserts; the last wins where a key comes twice, and twice over is once."""
    items = [(f"k/{number % count}", bytes([number % 256]) * (number % 50)) for number in range(2 * count)]
    for kind in (bytes, bytearray, lambda value: np.frombuffer(value, "u1").reshape(1, -1)):
        mapping.update_many((key, kind(value)) for key, value in items)
        assert dict(mapping.items()) == dict(items)
    assert one(admin, f"SELECT count(DISTINCT xmin::text) FROM {table}") == 1


@pytest.mark.server
def test_one_of_many_sets_the_default(mapping: PostgreSQLMapping) -> None:
    together = threading.Barrier(8, timeout=30)

    def work(number: int) -> list[bytes]:
        answers = []
        for key in range(20):
            together.wait()
            answers.append(mapping.setdefault(f"{key}", b"%d" % number))
        return answers

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert found == 8 * [[mapping[f"{key}"] for key in range(20)]]


@pytest.mark.server
def test_a_table_that_another_thread_made_meanwhile_is_not_a_lost_one(mapping: PostgreSQLMapping) -> None:
    """The server says that there is none, and before that is heard there is one."""

    def work(connection: Any) -> int:
        try:
            return connection.execute(f"SELECT count(*) FROM {mapping._session.statements.table}").fetchone()[0]  # type: ignore[no-any-return]
        except psycopg.Error:
            with ThreadPoolExecutor(1) as other:
                other.submit(mapping.__setitem__, "k", b"1").result()
            raise

    assert mapping._session.call(work, create=True) == 1


@pytest.mark.server
def test_children_are_found_without_visiting_what_is_beneath(mapping: PostgreSQLMapping) -> None:
    """Four seeks, not 20,000 rows."""
    mapping.update_many((f"{group}/c/{number}", b"") for group in "abcd" for number in range(5000))
    bounds = {"id": "default", "low": "", "skip": 1}
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {mapping._sql.children}"
    plan: Any = mapping._session.call(lambda connection: connection.execute(explain, bounds).fetchone())

    def visited(node: dict[str, Any]) -> int:
        rows = node["Actual Rows"] * node["Actual Loops"] if "Index" in node["Node Type"] else 0
        return int(rows) + sum(map(visited, node.get("Plans", ())))

    assert visited(plan[0][0]["Plan"]) <= 8
    assert list(mapping.children("")) == list("abcd")


# -- connections ------------------------------------------------------------------------------------------------------


def sessions(admin: Any) -> int:
    """Count the sessions of stores."""
    return int(one(admin, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zarrstream'"))


@pytest.mark.server
def test_threads_share_a_bounded_number_of_connections(postgresql: Server, table: str, admin: Any) -> None:
    mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=table, max_connections=3)
    before, peak = sessions(admin), 0
    threads = [threading.Thread(target=mapping.update_many, args=([(f"{n}", bytes(1 << 20))],)) for n in range(20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, sessions(admin) - before)
    assert 1 <= peak <= 3
    assert len(mapping) == 20
    mapping.close()


@pytest.mark.server
@pytest.mark.parametrize("end", ["close", "garbage"])
def test_connections_end_with_close_and_with_the_mapping(postgresql: Server, table: str, admin: Any, end: str) -> None:
    before = sessions(admin)
    mapping = PostgreSQLMapping(postgresql_url(postgresql), table_name=table)
    mapping["k"] = b"1"
    assert sessions(admin) == before + 1
    if end == "close":
        mapping.close()
    else:
        del mapping
        gc.collect()
    while sessions(admin) > before:  # the server takes a moment; the test's time-out ends this
        pass


@pytest.mark.server
def test_durability_is_the_session_s(postgresql: Server, table: str) -> None:
    url = postgresql_url(postgresql)
    show = "SHOW synchronous_commit"
    for given, durability, expected in (
        ("off", "full", "on"),
        ("remote_apply", "full", "remote_apply"),
        ("on", "local", "local"),
        ("on", "off", "off"),
    ):
        mapping = PostgreSQLMapping(
            f"{url}?options=-csynchronous_commit%3D{given}",
            table_name=table,
            durability=durability,  # type: ignore[arg-type]
        )
        assert mapping._session.call(lambda connection: connection.execute(show).fetchone()) == (expected,)
        mapping.close()


@pytest.mark.server
def test_the_driver_is_the_real_one(mapping: PostgreSQLMapping) -> None:
    assert mapping._session.call(lambda connection: isinstance(connection, psycopg.Connection))
