"""Two stores are one exactly where their data are the same, in every process; what cannot be known is no identity."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.implementations.zip import ZipFileSystem
from zarr.storage import FsspecStore, LocalStore, LoggingStore, MemoryStore, ObjectStore, WrapperStore, ZipStore

from tests.backends import every_row, opened
from tests.optional import require
from zarrstream import open_store
from zarrstream.identity import Identity, endpoint_of, identity_of, legacy_place, spelled
from zarrstream.stores.mapping import MappingStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends import Row

_ELSEWHERE = """
import json, sys
from zarrstream import open_store
from zarrstream.identity import identity_of
print(json.dumps([identity_of(open_store(url)) for url in json.loads(sys.argv[1])]))
"""


def wrapped(system: Any, path: str) -> FsspecStore:
    return FsspecStore(AsyncFileSystemWrapper(system, asynchronous=True), path=path)


@every_row
def test_a_mapping_is_the_place_that_it_names(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A row with a place has one identity, whatever it is wrapped in; one without has none."""
    for mapping in opened(row, tmp_path, request):
        store = MappingStore(mapping)
        found = identity_of(store)
        assert (found is None) == (store.place is None)
        assert identity_of(LoggingStore(store)) == found
        if found is not None:
            assert identity_of(MappingStore(mapping, read_only=True)) == found
            assert hash(found) is not None


def test_a_folder_is_itself_by_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local stores of zarr, fsspec and obstore, links, relative paths and URLs: the same folder is the same place."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    there = identity_of(LocalStore(folder))
    assert there == Identity("file://", str(folder).strip("/"))
    assert str(there) == f"file://{folder}"
    same = [
        LocalStore(tmp_path / "link"),
        LocalStore("data"),
        open_store(f"file://{folder}"),
        LoggingStore(LocalStore(folder)),
        FsspecStore.from_url(f"file://{folder}"),
        wrapped(LocalFileSystem(), f"{folder}/"),
        wrapped(DirFileSystem(str(tmp_path), LocalFileSystem()), "/data"),
        wrapped(DirFileSystem(str(tmp_path / "link"), LocalFileSystem()), ""),
    ]
    assert {identity_of(store) for store in same} == {there}
    others = [
        LocalStore(tmp_path),
        wrapped(DirFileSystem(str(folder), LocalFileSystem()), "/data"),
        wrapped(MemoryFileSystem(), str(folder)),
        open_store(f"sqlite:///{folder}/x.db"),
        open_store(f"zip:///{folder}/x.zip"),
    ]
    assert len({identity_of(store) for store in [LocalStore(folder), *others]}) == 1 + len(others)


_KEY = "AccountKey=a2V5"
_AZURE: dict[str, dict[str, str]] = {
    "name": {"account_name": "one"},
    "host": {"account_name": "one", "account_host": "one.blob.core.chinacloudapi.cn"},
    "string": {"connection_string": f"DefaultEndpointsProtocol=https;AccountName=one;{_KEY}"},
    "suffix": {"connection_string": f"AccountName=one;{_KEY};EndpointSuffix=core.chinacloudapi.cn"},
    "protocol": {"connection_string": f"DefaultEndpointsProtocol=http;AccountName=one;{_KEY}"},
    "protocol, suffix": {
        "connection_string": f"DefaultEndpointsProtocol=http;AccountName=one;{_KEY};EndpointSuffix=core.windows.net"
    },
    "lower case": {"connection_string": "accountname=one;accountkey=a2V5;endpointsuffix=core.chinacloudapi.cn"},
    "address": {"connection_string": f"AccountName=one;{_KEY};BlobEndpoint=http://127.0.0.1:10000/one"},
    "both": {"connection_string": f"AccountName=one;{_KEY}", "account_host": "two.blob.core.windows.net"},
    "two names": {"connection_string": f"AccountName=one;{_KEY}", "account_name": "two"},
}


@pytest.mark.parametrize("environment", [False, True])
@pytest.mark.parametrize("kind", _AZURE)
@pytest.mark.filterwarnings("ignore:.*asynchronous=True:UserWarning")
def test_azure_is_where_its_client_goes(kind: str, environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our store and zarr's over adlfs have one identity: that of the address which adlfs itself has made of it."""
    options = dict(_AZURE[kind])
    if environment:
        text = options.pop("connection_string", f"AccountName=environment;{_KEY}")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    system = require("adlfs").AzureBlobFileSystem(**options, skip_instance_cache=True)
    there = Identity(f"az://box at {spelled(system.service_client.url)}", "a")
    assert identity_of(FsspecStore(system, path="box/a")) == there
    assert identity_of(open_store("az://box/a", storage_options=options)) == there


def test_an_identity_is_the_same_in_another_process(tmp_path: Path) -> None:
    """A checkpoint that one process writes is believed by the next."""
    urls = [str(tmp_path / "a"), f"sqlite:///{tmp_path}/x.db", f"zip:///{tmp_path}/x.zip"]
    here = [identity_of(open_store(url)) for url in urls]
    run = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, json.dumps(urls)], capture_output=True, text=True, check=True
    )
    assert [Identity(*pair) for pair in json.loads(run.stdout)] == here


class Own(MemoryStore):
    """A store of a user's own, which says nothing of its place."""


class Told(MemoryStore):
    """A store of a user's own, which says where it is."""

    place = "told://here"


class Prefixed(WrapperStore[Any]):
    """A wrapper that shows a part of what is in it, and says so."""

    place = "prefixed://part"


def test_what_cannot_be_known_is_no_identity(tmp_path: Path) -> None:
    """Addresses in memory, archives within file systems and sessions are places that no other process finds."""
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("zarr.json", "{}")
    unknown = [
        MemoryStore(),
        MappingStore({}),
        Own(),
        wrapped(ZipFileSystem(str(tmp_path / "z.zip")), ""),
        FsspecStore.from_url(f"simplecache::file://{tmp_path}"),
    ]
    assert [identity_of(store) for store in unknown] == [None] * len(unknown)
    assert identity_of(Told()) == Identity("told://here")
    assert identity_of(Prefixed(LocalStore(tmp_path))) == Identity("prefixed://part")
    assert identity_of(ZipStore(tmp_path / "z.zip", mode="r")) == Identity(f"zip://{tmp_path}/z.zip")


def test_two_servers_of_obstore_are_two_places() -> None:
    """The endpoint is part of the place; where it could come from anywhere, there is no identity."""
    stores = require("obstore").store
    one, two = (stores.S3Store("b", endpoint=f"http://127.0.0.1:{port}", region="x", prefix="p") for port in (1, 2))
    assert identity_of(ObjectStore(one)) == Identity("s3://b at http://127.0.0.1:1", "p")
    assert identity_of(ObjectStore(two)) == Identity("s3://b at http://127.0.0.1:2", "p")
    assert identity_of(ObjectStore(stores.S3Store("b"))) is None
    assert identity_of(ObjectStore(stores.MemoryStore())) is None


@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_an_endpoint_counts_from_every_source(engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The argument, the client's options, the environment and the configuration name the server alike."""
    require(engine)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    address, there = "http://127.0.0.1:9", Identity("s3://b at http://127.0.0.1:9", "p")

    def found(**options: Any) -> Identity | None:
        return identity_of(open_store("s3://b/p/", engine=engine, **options))

    assert found() == Identity("s3://b", "p")
    assert found(endpoint_url="http://localhost:9/") == there
    assert found(storage_options={"client_kwargs": {"endpoint_url": address}}) == there
    assert found(storage_options={"endpoint_url": address}) == there
    assert found(storage_options={"endpoint": address}) == there
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {address}\n")
    assert found() == there
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:8")
    assert found() == Identity("s3://b at http://127.0.0.1:8", "p")
    assert endpoint_of("s3", None, "http://first", "http://second") == "http://first"


def test_s3fs_of_zarrs_own_names_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsspec store of S3 is the place that `open_store` names, and an old name that says less is none."""
    s3fs = require("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = FsspecStore(s3fs.S3FileSystem(asynchronous=True, anon=True, skip_instance_cache=True), path="b/p")
    assert identity_of(store) == identity_of(open_store("s3://b/p"))
    assert legacy_place(store) is None


def test_names_in_old_checkpoints_stay_right(tmp_path: Path) -> None:
    """What a checkpoint of the first format calls a place is known as that place, where it was enough."""
    assert legacy_place(LocalStore(tmp_path)) == f"file://{tmp_path}"
    assert legacy_place(open_store(f"sqlite:///{tmp_path}/x.db")) == f"sqlite:///{tmp_path}/x.db"
    assert legacy_place(FsspecStore.from_url(f"file://{tmp_path}")) == f"file://{tmp_path} {{}}"
    assert legacy_place(wrapped(DirFileSystem(str(tmp_path), LocalFileSystem()), "/data")) is None
    group = zarr.open_group(f"sqlite:///{tmp_path}/x.db", mode="a")
    assert identity_of(group.store) == identity_of(open_store(f"sqlite:///{tmp_path}/x.db"))
