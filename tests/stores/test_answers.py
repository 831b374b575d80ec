"""A write is stored when the service has said so, and a range is one when its answer says so."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from tests.clouds import CloudBucket, CloudRow, every_cloud
from tests.fault_proxy import Answer, FaultProxy
from tests.optional import require
from tests.values import PROTOTYPE, buffer
from zarrstream import Retry, stream_chunks
from zarrstream.errors import StoreAccessError, StoreError, StoreUnavailableError
from zarrstream.stores.buckets.answers import CutShortError, OddAnswerError, extent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from zarr.abc.store import Store

require("tenacity")
PAGE = b"<html><body>Please sign in</body></html>"
HTML = ("Content-Type", "text/html")
#: What answers in a service's place: login pages, proxies, other programs.
STRANGERS = {
    **{f"{status} html": Answer(status, PAGE, (HTML,)) for status in (200, 201, 202, 499)},
    "200 empty": Answer(200),
    "200 json": Answer(200, b"{}", (("Content-Type", "application/json"),)),
    "204": Answer(204),
    "206 html": Answer(206, PAGE, (HTML, ("Content-Range", f"bytes 0-{len(PAGE) - 1}/{len(PAGE)}"))),
    "304": Answer(304),
    **{f"{status} away": Answer(status, b"", (("Location", "/login"),)) for status in (301, 302, 303, 307, 308)},
    "302 bare": Answer(302),
}
NOT_HERE = {"bare": Answer(404), "html": Answer(404, b"<html>default backend - 404</html>", (HTML,))}
VALUE = bytes(range(100))
RANGES = {
    "range": (RangeByteRequest(10, 20), slice(10, 20)),
    "long": (RangeByteRequest(90, 200), slice(90, 200)),
    "offset": (OffsetByteRequest(30), slice(30, None)),
    "suffix": (SuffixByteRequest(7), slice(-7, None)),
}
QUICK = Retry(attempts=9, base=0.001, cap=0.01)
VERBS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "set": lambda store: store.set("k", buffer(b"new")),
    "set_if_not_exists": lambda store: store.set_if_not_exists("other", buffer(b"new")),
    "delete": lambda store: store.delete("k"),
    "delete_dir": lambda store: store.delete_dir(""),
}


def answered(
    bucket: CloudBucket,
    answers: dict[str, Answer],
    *calls: Callable[[Store], Awaitable[Any]],
    methods: str = "GET HEAD PUT POST DELETE",
) -> Iterator[tuple[str, Any]]:
    """Yield who answered, and what each call returned or raised, of a store in which ``k`` is."""
    name = uuid4().hex
    proxy = FaultProxy(bucket.port, methods=methods)

    async def work() -> list[tuple[str, Any]]:
        direct, store, found = bucket.open(name), bucket.open(name, port=proxy.port, retry=None), []
        await direct.set("k", buffer(VALUE))
        for who, answer in answers.items():
            proxy.faults = [answer]
            for call in calls:
                found += [(who, each) for each in await asyncio.gather(call(store), return_exceptions=True)]
            assert proxy.met[answer]
            kept = await direct.get("k", PROTOTYPE)
            assert kept is not None
            assert kept.to_bytes() == VALUE
        return found

    with proxy:
        yield from asyncio.run(work())


def ranged(wanted: Any) -> Callable[[Store], Awaitable[Any]]:
    return lambda store: store.get("k", PROTOTYPE, wanted)


async def listed(names: Any) -> list[str]:
    return [name async for name in names]


@every_cloud
def test_a_write_that_somebody_else_answered_is_an_error(bucket: CloudBucket) -> None:
    """It is stored, or removed, when the service itself has said so."""
    for who, found in answered(bucket, STRANGERS, *VERBS.values(), methods="PUT POST DELETE"):
        assert isinstance(found, StoreError), (who, found)


@every_cloud
def test_that_a_key_is_there_already_is_the_service_s_word(bucket: CloudBucket) -> None:
    """A refusal by anybody else tells no writer that another one was first."""
    refusals = {f"{status}": Answer(status, PAGE, (HTML,)) for status in (409, 412)}
    for _, found in answered(bucket, refusals, VERBS["set_if_not_exists"], methods="PUT POST"):
        assert isinstance(found, StoreUnavailableError)
        assert found.passes


@every_cloud
def test_what_somebody_else_answered_is_no_value_and_no_absence(bucket: CloudBucket) -> None:
    """For whole values, ranges, sizes and listings."""
    reads: list[Callable[[Store], Awaitable[Any]]] = [
        ranged(None),
        *(ranged(RANGES[name][0]) for name in ("range", "suffix")),
        lambda store: store.exists("k"),
        lambda store: listed(store.list()),
        lambda store: listed(store.list_dir("")),
    ]
    for who, found in answered(bucket, {**STRANGERS, **NOT_HERE}, *reads):
        assert isinstance(found, StoreError), (who, found)


def whole_object(cloud: CloudRow, value: bytes = VALUE) -> Answer:
    """Return the answer of a service that knows no ranges."""
    own = {"s3": (), "gs": (("X-Goog-Generation", "1"),), "az": (("x-ms-request-id", "1"),)}[cloud.scheme]
    common = ("ETag", '"1"'), ("Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT"), ("x-ms-blob-type", "BlockBlob")
    return Answer(200, value, (*common, *own))


@every_cloud
def test_a_redirect_leads_to_no_value(bucket: CloudBucket) -> None:
    """A page to sign in that has all marks of a file is neither the object nor a stored one; nothing asks for ever."""
    marks = ("ETag", '"5f3c1b2a-264"'), ("Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT"), HTML

    async def work(proxy: FaultProxy) -> None:
        store = bucket.open(port=proxy.port, retry=None)
        for status in (301, 302, 303, 307, 308):
            proxy.faults = [Answer(status, b"", (("Location", "/login"),))]
            for call in (ranged(None), lambda store: store.exists("k"), VERBS["set"], VERBS["delete"]):
                before = len(proxy.requests)
                (found,) = await asyncio.gather(call(store), return_exceptions=True)
                assert isinstance(found, StoreUnavailableError), (status, found)
                assert found.passes
                assert len(proxy.requests) - before <= 6
        store.close()

    with FaultProxy(bucket.port, elsewhere={"/login": Answer(200, PAGE, marks)}) as proxy:
        asyncio.run(work(proxy))


@every_cloud
def test_a_range_that_is_answered_with_the_whole_object_is_cut_out_of_it(bucket: CloudBucket, cloud: CloudRow) -> None:
    """Or it is an error that passes, where the client does not hand the object over."""
    calls = [ranged(wanted) for wanted, _ in RANGES.values()]
    found = answered(bucket, {"whole": whole_object(cloud)}, *calls, methods="GET")
    for (_, value), (_, bounds) in zip(found, RANGES.values(), strict=True):
        if cloud.name == "obstore":
            assert isinstance(value, StoreUnavailableError)
            assert value.passes
        else:
            assert value.to_bytes() == VALUE[bounds]


@every_cloud
def test_no_cache_keeps_what_was_not_the_range(bucket: CloudBucket, cloud: CloudRow, tmp_path: Path) -> None:
    """A server that ignores ranges once spoils no chunk of a shard, neither then nor afterwards."""
    name = uuid4().hex
    array = zarr.create_array(bucket.open(name), name="t", shape=(16,), chunks=(4,), shards=(16,), dtype="i4")
    array[:] = np.repeat([1, 2, 3, 4], 4)

    async def shard() -> bytes:
        value = await bucket.open(name).get("t/c/0", PROTOTYPE)
        assert value is not None
        return value.to_bytes()

    content = asyncio.run(shard())
    # The index is read first, from the end; what comes after it is a chunk.
    with FaultProxy(bucket.port, [whole_object(cloud, content)], paths="0", methods="GET") as proxy:
        proxy.times = 0
        store = bucket.open(name, port=proxy.port, retry=QUICK, cache=f"sqlite:///{tmp_path}/c.db")
        seen = zarr.open_array(store, path="t", mode="r")
        for number in range(4):
            proxy.times = proxy.met.total() + 1
            for _ in range(2):
                assert seen[number * 4 : number * 4 + 4].tolist() == [number + 1] * 4
        assert proxy.met
        store.close()


@every_cloud
@pytest.mark.parametrize("missing", NOT_HERE)
def test_a_404_by_somebody_else_is_asked_again_and_is_no_missing_chunk(bucket: CloudBucket, missing: str) -> None:
    """One of several proxies before a service does not know the bucket: every chunk is there all the same."""
    name = uuid4().hex
    array = zarr.create_array(bucket.open(name), name="t", shape=(8,), chunks=(2,), dtype="i4", fill_value=-1)
    array[:] = 7
    with FaultProxy(bucket.port, [NOT_HERE[missing]], paths="c", rate=0.3, seed=2) as proxy:
        store = bucket.open(name, port=proxy.port, retry=QUICK)
        seen = zarr.open_array(store, path="t", mode="r")
        for _ in range(4):
            assert [int(chunk.data[0]) for chunk in stream_chunks(seen)] == [7] * 4
        assert proxy.met
        store.close()


@every_cloud
def test_a_refusal_by_somebody_else_is_no_missing_key(bucket: CloudBucket, cloud: CloudRow) -> None:
    """Also where ``missing_on_403`` takes the service's own for one."""
    said = {
        "s3": Answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"),
        "gs": Answer(403, b"me does not have storage.objects.get access to the Google Cloud Storage object."),
        "az": Answer(403, b"", (("x-ms-error-code", "AuthorizationPermissionMismatch"), ("x-ms-request-id", "1"))),
    }[cloud.scheme]
    name = uuid4().hex

    async def work(proxy: FaultProxy) -> None:
        await bucket.open(name).set("k", buffer(VALUE))
        store = bucket.open(name, port=proxy.port, retry=None, missing_on_403=True)
        for answer in (Answer(403), Answer(403, b"<html>blocked</html>", (HTML,))):
            proxy.faults = [answer]
            for call in (ranged(None), lambda store: store.exists("k")):
                with pytest.raises(StoreAccessError):
                    await call(store)
        proxy.faults = [said]
        assert await store.get("k", PROTOTYPE) is None
        assert not await store.exists("k")
        store.close()

    with FaultProxy(bucket.port, methods="GET HEAD") as proxy:
        asyncio.run(work(proxy))


@every_cloud
def test_a_missing_bucket_that_the_service_tells_of_is_no_missing_key(bucket: CloudBucket, cloud: CloudRow) -> None:
    """It is told for any verb, and at once."""
    said = {
        "s3": Answer(404, b"<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>"),
        "gs": Answer(404, b'{"error": {"code": 404, "message": "The specified bucket does not exist."}}'),
        "az": Answer(404, b"", (("x-ms-error-code", "ContainerNotFound"), ("x-ms-request-id", "1"))),
    }[cloud.scheme]
    calls = ranged(None), lambda store: store.getsize("k"), VERBS["set"]
    for _, found in answered(bucket, {"gone": said}, *calls):
        assert isinstance(found, StoreUnavailableError)
        assert "bucket or container is not there" in str(found)
        assert not found.passes


@pytest.mark.parametrize(
    ("status", "content_range", "start", "stop", "expected"),
    [
        (200, None, 0, None, VALUE),
        (206, "bytes 2-4/100", 2, 5, VALUE[2:5]),
        (206, "bytes 98-99/100", 98, 200, VALUE[98:]),
        (206, "bytes 90-99/100", -10, None, VALUE[-10:]),
        (206, "bytes 0-99/100", -200, None, VALUE),
        (206, "bytes 0--1/0", -5, None, b""),
        (200, None, 2, 5, VALUE[2:5]),
        (200, None, -10, None, VALUE[-10:]),
    ],
)
def test_an_extent_is_what_was_asked_for(
    status: int, content_range: str | None, start: int, stop: int | None, expected: bytes
) -> None:
    body = VALUE if status == 200 else expected  # HTTP: the whole
    found = extent(body, start, stop, status=status, content_range=content_range, promised=len(body))
    assert found == expected


@pytest.mark.parametrize(
    ("status", "content_range", "start", "stop", "promised"),
    [
        (204, None, 0, None, None),
        (206, "bytes 0-2/3", 0, None, 3),  # nobody asked for a range
        (206, None, 2, 5, 3),
        (206, "bytes 1-3/100", 2, 5, 3),
        (206, "bytes 2-9/100", 2, 5, 3),
        (206, "bytes 2-4/*", 2, 5, 3),
        (206, "items 2-4/100", 2, 5, 3),
        (206, "bytes 0-2/100", -3, None, 3),
        (200, None, 1, 2, None),  # nobody knows whether it is whole
        (302, None, 0, None, 3),
    ],
)
def test_an_extent_that_is_another_one_is_an_error(
    status: int, content_range: str | None, start: int, stop: int | None, promised: int | None
) -> None:
    with pytest.raises(OddAnswerError):
        extent(b"abc", start, stop, status=status, content_range=content_range, promised=promised)


def test_an_extent_that_is_shorter_than_promised_is_cut_short() -> None:
    with pytest.raises(CutShortError, match="3 of 4 bytes"):
        extent(b"abc", 0, 4, status=206, content_range="bytes 0-3/10", promised=4)
