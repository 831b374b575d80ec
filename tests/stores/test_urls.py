"""URLs and paths that are nearly right: an error with the remedy, no folder of that name, and no credentials told."""

from __future__ import annotations

import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest
from zarr.storage import FsspecStore, LocalStore

from tests.optional import require
from zarrstream import open_store, places, register_store
from zarrstream.errors import StoreOptionError
from zarrstream.mappings.sqlite import SQLiteMapping
from zarrstream.stores import opening as registry


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})


def refused(url: Any, **options: Any) -> str:
    """Return the words in which `open_store` refuses something, and prove that it made nothing."""
    with pytest.raises(StoreOptionError) as caught:
        open_store(url, **options)
    assert not list(Path().iterdir())
    error: BaseException | None = caught.value
    words = []
    while error is not None:
        words += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return " ".join(words)


SCHEMES = sorted({name for row in places.BUILT_IN for name in (row.scheme, *row.aliases)})


@pytest.mark.parametrize("slashes", ["", "/"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_known_scheme_with_too_few_slashes_is_no_folder(scheme: str, slashes: str) -> None:
    """A malformed URL would otherwise write into a local folder of that name, and the job would succeed."""
    assert "://" in refused(f"{scheme}:{slashes}okay/x")
    assert "://" in refused(f"faulty+{scheme}:{slashes}okay/x")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_url_that_a_path_object_has_cut_is_no_folder(scheme: str) -> None:
    """`pathlib` makes one slash of two: the text has to be passed."""
    assert "pass the URL as text" in refused(Path(f"{scheme}://okay/x"))


def test_a_folder_with_a_colon_is_given_by_its_absolute_path(tmp_path: Path) -> None:
    """A file may have any name: the whole path says that it is one."""
    store = open_store(tmp_path / "s3:" / "okay")
    assert isinstance(store, LocalStore)
    assert store.root == tmp_path / "s3:" / "okay"
    assert isinstance(open_store("weather:2024"), LocalStore)


CREDENTIALS = [
    ("s3", "AKIAKEY:TOPSECRET@okay/x"),
    ("s3", "TOPSECRET@okay/x"),
    ("gs", "user:TOPSECRET@okay/x"),
    ("gcs", "TOPSECRET@okay/x"),
    ("az", "user:TOPSECRET@okay/x"),
    ("abfs", "user:TOPSECRET@okay@account.dfs.core.windows.net/x"),
    ("sqlite", "u:TOPSECRET@okay"),
    ("lmdb", "u:TOPSECRET@okay"),
    ("zip", "u:TOPSECRET@okay"),
    ("shm", "u:TOPSECRET@okay"),
    ("memory", "u:TOPSECRET@okay"),
]


@pytest.mark.parametrize("prefix", ["", "faulty+"])
@pytest.mark.parametrize(("scheme", "rest"), CREDENTIALS)
def test_credentials_in_a_url_are_refused_and_not_repeated(scheme: str, rest: str, prefix: str) -> None:
    """A URL ends in messages, logs and `repr`: what is secret has no place in one."""
    words = refused(f"{prefix}{scheme}://{rest}")
    assert "credentials" in words
    assert "TOPSECRET" not in words
    for broken in (f"{prefix}{scheme}:{rest}", f"{prefix}{scheme}:/{rest}"):
        assert "TOPSECRET" not in refused(broken)


def test_a_path_may_hold_an_at_sign() -> None:
    """Behind the third slash there is a path, and no host."""
    assert str(open_store("sqlite:///me:too@home.db")).endswith("me:too@home.db")


def test_a_container_names_its_account() -> None:
    """``container@account`` is Azure's own form."""
    require("adlfs")
    store = open_store("abfs://okay@account.dfs.core.windows.net/x")
    assert "okay" in str(store)


@pytest.mark.parametrize(("scheme", "extra"), [("lmdb", "data.lmdb"), ("zip", "data.zip"), ("sqlite", "data.db")])
def test_too_few_slashes_for_a_file_are_told_in_its_own_words(scheme: str, extra: str) -> None:
    """The example is of the scheme that was meant."""
    assert f"{scheme}:///{extra}" in refused(f"{scheme}://x/y")


@pytest.mark.parametrize("scheme", ["sqlite", "zip"])
def test_a_path_inside_a_database_is_told_apart(scheme: str) -> None:
    """``zarr.open`` takes the path of an array behind the file's: here it is an argument."""
    Path("w.db").write_bytes(b"")
    with pytest.raises(StoreOptionError, match=rf"open_store\('{scheme}:///w.db'\), and zarr.open.*path='winds/u'"):
        open_store(f"{scheme}:///w.db/winds/u")
    with pytest.raises(StoreOptionError, match="leads into the file"):
        open_store(scheme, path=Path("w.db/winds"))


def test_a_file_is_known_by_its_content() -> None:
    """A store that is a file is told its URL, whatever its name."""
    mapping = SQLiteMapping("x.dat")
    mapping["k"] = b"v"
    mapping.close()
    with zipfile.ZipFile("y.dat", "w") as archive:
        archive.writestr("k", b"v")
    Path("z.dat").write_bytes(b"neither")
    assert sqlite3.connect("x.dat").close() is None
    for name, remedy in (("x.dat", "sqlite:///x.dat"), ("y.dat", "zip:///y.dat"), ("z.dat", "a file, not a folder")):
        with pytest.raises(StoreOptionError, match=remedy):
            open_store(name)


def test_a_name_of_an_archive_makes_no_folder() -> None:
    """``data.zip`` is an archive to everybody; a folder that is so called is opened where it is there."""
    assert "zip:///data.zip" in refused("data.zip")
    Path("data.zip").mkdir()
    assert isinstance(open_store("data.zip"), LocalStore)


@pytest.mark.parametrize("scheme", ["http", "https", "ftp"])
def test_a_scheme_of_fsspec_is_zarrs(scheme: str) -> None:
    """What zarr opens by itself streams as well."""
    assert "zarr.open_array(url)" in refused(f"{scheme}://host/x")


@pytest.mark.parametrize("value", ["no", 0, None, "r"])
def test_read_only_is_a_bool(value: Any) -> None:
    """A text that means no would otherwise mean yes."""
    assert "True or False" in refused("sqlite:///x.db", read_only=value)


@pytest.mark.parametrize(
    ("url", "options", "remedy"),
    [
        ("sqlite:///x.db", {"mode": "r"}, "read_only=True"),
        ("sqlite:///x.db", {"cahce": "shm://x"}, "did you mean 'cache'"),
        ("s3://okay/x", {"anon": True}, "storage_options={'anon': True}"),
        ("s3://okay/x", {"key": "TOPSECRET"}, "storage_options={'key': …}"),
    ],
)
def test_an_option_of_another_library_is_told_ours(url: str, options: dict[str, Any], remedy: str) -> None:
    """The words of zarr and of a cloud's client lead to ours, and values are not repeated."""
    if url.startswith("s3"):
        require("s3fs")
    words = refused(url, **options)
    assert remedy in words
    assert "TOPSECRET" not in words
    assert "max_concurrency, rate, read_only, retry, trace" in words


def test_a_factory_without_a_signature_is_named() -> None:
    """A class in C says nothing of its parameters."""
    register_store("plain", "builtins:dict")
    assert "def open_plain(url" in refused("plain://x")


class Remote:
    """A path of universal_pathlib, as far as it matters: its text is a URL, and it is no path of this machine."""

    protocol = "memory"

    def __init__(self, **storage_options: Any) -> None:
        self.storage_options = storage_options

    def __str__(self) -> str:
        return "memory://urls-test/a"


def test_a_upath_is_the_url_that_it_shows() -> None:
    """A path of a remote file system is taken as its URL, and what it holds for its client is not dropped."""
    store = open_store(Remote())  # type: ignore[arg-type]  # no os.PathLike, and taken all the same
    assert isinstance(store, FsspecStore)
    assert store == open_store("memory://urls-test/a")
    assert "storage_options" in refused(Remote(anon=True))
