"""What is broken on its way is asked for again, once an attempt; what is in the way for good is told at once."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.cloud_services import AZURE_ACCOUNT
from tests.clouds import CLOUD_ROWS, CloudBucket, CloudRow, azure_string, every_cloud, new_bucket
from tests.fault_proxy import CUT, FLIPPED, Answer, FaultProxy, Raw
from tests.optional import require
from tests.values import PROTOTYPE, buffer
from zarrstream import Retry
from zarrstream.errors import StoreAccessError, StoreUnavailableError, ZarrStreamError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from zarr.abc.store import Store

    from tests.programs import Server

require("tenacity")
#: What is no answer in HTTP, or one in half.
BROKEN = {
    "not http": Raw(b"NOT HTTP AT ALL\r\n\r\n"),
    "header": Raw(b"HTTP/1.1 200 OK\r\nbad header line\r\nContent-Length: 3\r\n\r\nabc"),
    "length": Raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    "chunk": Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
    "cut in its head": Raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "gzip": Raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde"),
    "long header": Raw(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000 + b"\r\n\r\n"),
    "http/2": Raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "tls": Raw(b"\x15\x03\x01\x00\x02\x02\x46"),
    "304": Answer(304),
}
VALUE = bytes(range(100)) * 100
QUICK = Retry(attempts=3, base=0.001, cap=0.01)


def rows_of(chosen: Callable[[CloudRow], bool]) -> pytest.MarkDecorator:
    """Return the mark of a test of some clouds."""
    rows = [pytest.param(row, id=row.name, marks=row.marks) for row in CLOUD_ROWS if chosen(row)]
    return pytest.mark.parametrize("cloud", rows)


def get(store: Store) -> Awaitable[Any]:
    return store.get("k", PROTOTYPE)


@every_cloud
def test_a_broken_answer_is_asked_for_again(bucket: CloudBucket) -> None:
    """It is the way that is broken, whatever number the client gives it, and no option of the user's."""
    name = uuid4().hex

    async def work(proxy: FaultProxy) -> None:
        store = bucket.open(name, port=proxy.port, retry=QUICK)
        await store.set("k", buffer(VALUE))
        for who, broken in BROKEN.items():
            proxy.faults, proxy.times = [broken], proxy.met.total() + 1
            value = await get(store)
            assert value is not None, who
            assert value.to_bytes() == VALUE, who
            assert proxy.met[broken] == 1

    with FaultProxy(bucket.port, times=0, methods="GET HEAD") as proxy:
        asyncio.run(work(proxy))


@every_cloud
@pytest.mark.parametrize("fault", [CUT, 503])
def test_an_attempt_is_one_request(bucket: CloudBucket, fault: int | str) -> None:
    """No client asks again by itself."""

    async def work(proxy: FaultProxy) -> None:
        store = bucket.open(port=proxy.port, retry=QUICK)
        await store.set("k", buffer(VALUE))
        proxy.faults = [fault]
        with pytest.raises(StoreUnavailableError):
            await get(store)
        assert proxy.met[fault] == QUICK.attempts

    with FaultProxy(bucket.port) as proxy:
        asyncio.run(work(proxy))


@rows_of(lambda row: row.driver == "s3fs")  # the others ask for no checksum
def test_a_body_that_does_not_match_its_checksum_is_asked_for_again(bucket: CloudBucket) -> None:
    """It was right where it was stored."""

    async def work(proxy: FaultProxy) -> None:
        store = bucket.open(port=proxy.port, retry=None)
        await store.set("k", buffer(VALUE))
        proxy.faults = [FLIPPED]
        with pytest.raises(StoreUnavailableError, match="does not match its checksum") as caught:
            await get(store)
        assert caught.value.passes

    with FaultProxy(bucket.port) as proxy:
        asyncio.run(work(proxy))


@pytest.mark.server
def test_snapshots_and_leases_are_told_at_once(azurite: Server) -> None:
    """They do not go away by themselves."""
    require("adlfs")
    from azure.storage.blob import BlobServiceClient

    row = next(row for row in CLOUD_ROWS if row.service == "azurite")
    bucket = new_bucket(row, azurite)

    async def work(proxy: FaultProxy) -> None:
        store = bucket.open("p", port=proxy.port, retry=QUICK)
        for key in ("snapshot", "lease"):
            await store.set(key, buffer(b"x"))
        with BlobServiceClient.from_connection_string(azure_string(azurite.port)) as client:
            client.get_blob_client(bucket.name, "p/snapshot").create_snapshot()
            client.get_blob_client(bucket.name, "p/lease").acquire_lease()
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "SnapshotsPresent": lambda: store.delete("snapshot"),
            "LeaseIdMissing": lambda: store.set("lease", buffer(b"y")),
        }
        for code, call in calls.items():
            before = len(proxy.requests)
            with pytest.raises(StoreAccessError, match=rf"keeps this object as it is.*\[{code}\]"):
                await call()
            assert len(proxy.requests) == before + 1

    with FaultProxy(azurite.port) as proxy:
        asyncio.run(work(proxy))


SECRET = "PLANTED/secret+token=="  # noqa: S105  # to be found nowhere


def reached(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all that hangs on it."""
    yield error
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield from reached(other)


def with_secret(cloud: CloudRow, port: int) -> dict[str, Any]:
    """Return options that hold the secret, of a service at a port."""
    if cloud.scheme == "s3":
        return {"storage_options": {"key": "k", "secret": "s" * 20, "token": SECRET}}
    account = f"BlobEndpoint=http://127.0.0.1:{port}/{AZURE_ACCOUNT};AccountName={AZURE_ACCOUNT}"
    return {"connection_string": f"{account};SharedAccessSignature=sv=1&sig={quote(SECRET)}"}


@rows_of(lambda row: row.scheme != "gs")  # whose secrets gcsfs keeps to itself
def test_no_secret_hangs_on_an_error(bucket: CloudBucket, cloud: CloudRow) -> None:
    """Neither as its cause nor as its context, whoever echoes it."""
    said = {403: ["SignatureDoesNotMatch"], 404: ["NoSuchKey", "NoSuchBucket", "Odd"], 500: ["InternalError"]}
    echoes = [
        Answer(status, f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode())
        for status, codes in {200: ["Odd"], 302: ["Odd"], 400: ["Odd"], **said}.items()
        for code in codes
    ]
    calls: list[Callable[[Store], Awaitable[Any]]] = [
        get,
        lambda store: store.exists("k"),
        lambda store: store.set("k", buffer(b"x")),
        lambda store: store.delete("k"),
        lambda store: store.getsize_prefix(""),
    ]

    async def work(proxy: FaultProxy) -> None:
        store = bucket.open(port=proxy.port, retry=Retry(attempts=2, base=0), **with_secret(cloud, proxy.port))
        for echo in echoes:
            proxy.faults = [echo]
            for call in calls:
                (found,) = await asyncio.gather(call(store), return_exceptions=True)
                assert isinstance(found, ZarrStreamError), (echo, found)
                texts = [f"{each!r} {each}" for each in reached(found)]
                assert not [text for text in texts if SECRET in text or quote(SECRET) in text], echo
        store.close()

    with FaultProxy(bucket.port) as proxy:
        asyncio.run(work(proxy))
