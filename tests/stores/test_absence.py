"""Never a false fill value: whatever a server or the network does, a chunk is right, or an error names it."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from tests.cloud_services import Proxy
from tests.clouds import CLOUD_ROWS, CloudBucket, every_cloud, every_s3, s3_client
from tests.fault_proxy import CUT, HANG, RESET, SHORT, SLOW_BODY, FaultProxy
from tests.optional import require
from tests.values import buffer
from zarrstream import Retry, stream_chunks
from zarrstream.errors import ChunkReadError, StoreAccessError, StoreError, StoreTimeoutError, StoreUnavailableError

if TYPE_CHECKING:
    from tests.programs import Server

require("tenacity")
FILL = 77
QUICK = Retry(attempts=4, base=0.01, cap=0.05, deadline=20, attempt_timeout=2)


def written(store: Any, count: int = 8, *, zarr_format: Any = 3, **options: Any) -> zarr.Array[Any]:
    """Return an array in which every second chunk is stored: number ``i`` is full of ``i``."""
    array = zarr.create_array(
        store,
        shape=(count * 16,),
        chunks=(16,),
        dtype="i4",
        fill_value=FILL,
        zarr_format=zarr_format,
        name="x",
        **options,
    )
    array[:] = np.repeat(np.where(np.arange(count) % 2, FILL, np.arange(count)), 16)
    return array


def sparse(count: int = 8) -> list[int]:
    return [FILL if number % 2 else number for number in range(count)]


@every_cloud
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_missing_chunks_of_an_array_that_is_there_are_fill_values(bucket: CloudBucket, zarr_format: Any) -> None:
    """And no other chunk is."""
    store = bucket.open()
    array = written(store, zarr_format=zarr_format)
    assert [int(chunk.data[0]) for chunk in stream_chunks(array)] == sparse()
    assert array[::16].tolist() == sparse()
    store.close()


@every_cloud
def test_a_bucket_that_is_deleted_under_an_open_array_is_an_error(own_bucket: CloudBucket) -> None:
    """By stream and by zarr, for the chunks that were stored and for those that were not."""
    store = own_bucket.open("p")
    array = written(store)
    own_bucket.remove()
    with pytest.raises(ChunkReadError, match="bucket or container is not there"):
        list(stream_chunks(array))
    for number in range(2):
        with pytest.raises(StoreUnavailableError, match="bucket or container is not there"):
            array[16 * number]
    store.close()


@every_cloud
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_prefix_that_is_deleted_under_an_open_array_is_an_error(bucket: CloudBucket, zarr_format: Any) -> None:
    """Its metadata were there, and are not."""
    store = bucket.open()
    array = written(store, zarr_format=zarr_format)
    inner: Any = store
    other = bucket.open(inner._store._place.prefix)
    asyncio.run(other.clear())
    with pytest.raises(ChunkReadError, match="the metadata of 'x' were there before"):
        list(stream_chunks(array))
    with pytest.raises(StoreUnavailableError, match="the metadata of 'x' were there before"):
        array[0]  # one chunk: of many, zarr leaves those that it has begun to themselves
    store.close()
    other.close()


@every_cloud
def test_a_mistyped_prefix_is_no_array(bucket: CloudBucket) -> None:
    store, mistyped = bucket.open("right"), bucket.open("wrong")
    written(store)
    with pytest.raises(FileNotFoundError):  # zarr's own, of its opening
        zarr.open_array(mistyped, path="x", mode="r")
    asyncio.run(store.clear())
    store.close()
    mistyped.close()


@every_cloud
def test_absence_is_asked_for_once_by_many_and_again_by_the_next(bucket: CloudBucket) -> None:
    """Misses of one moment share a look at the metadata; none is believed for later."""
    with FaultProxy(bucket.port) as proxy:
        store = bucket.open(port=proxy.port, retry=None)
        array = zarr.create_array(store, shape=(64 * 16,), chunks=(16,), dtype="i4", fill_value=FILL, name="x")
        before = sum("zarr.json" in path for _, path in proxy.requests)
        assert all(int(chunk.data[0]) == FILL for chunk in stream_chunks(array, concurrency=64))
        first = sum("zarr.json" in path for _, path in proxy.requests) - before
        assert int(array[0]) == FILL
        second = sum("zarr.json" in path for _, path in proxy.requests) - before - first
        store.close()
    assert 1 <= first < 32
    assert second == 1


@every_s3
@pytest.mark.parametrize("fault", [503, 429, 500, RESET, CUT, 416, SHORT, 403, HANG])
def test_one_failure_of_each_kind_is_the_right_data_or_an_error_that_names_the_key(
    bucket: CloudBucket,
    fault: Any,
) -> None:
    """What passes is mended by the next attempt; what does not is raised, with key and cause."""
    # An attempt that a busy machine cuts short would be made again, whatever the fault.
    policy = Retry(attempts=3, base=0.01, attempt_timeout=0.5 if fault == HANG else 10, deadline=30)
    with FaultProxy(bucket.port, [fault], paths="/x/c/4", methods="GET") as proxy:
        store = bucket.open(port=proxy.port, retry=policy)
        array = written(store)
        met = proxy.met[fault]
        with pytest.raises(ChunkReadError, match=r"x/c/4") as caught:
            list(stream_chunks(array))
        tried = proxy.met[fault] - met
        proxy.faults.clear()
        assert [int(chunk.data[0]) for chunk in stream_chunks(array)] == sparse()
        store.close()
    assert caught.value.index == (4,)
    passing = {503, 429, 500, RESET, CUT, HANG}
    if bucket.row.name == "s3fs":  # which asks for a checksum
        passing.add(SHORT)
    # Where a connection that was used before turns out to be dead, aiohttp sends the request once more by itself.
    again = 2 if fault == RESET and bucket.row.name == "s3fs" else 1
    assert 3 <= tried <= 3 * again if fault in passing else tried == 1
    assert isinstance(caught.value.cause, StoreError) or fault == SHORT  # which else only the codec can tell


@every_s3
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_reads_on_a_bad_day_are_right(bucket: CloudBucket, toxiproxy: Server) -> None:
    """A fifth of them fails, in every way that there is, and none of the chunks is a fill value that is not stored."""
    straight = bucket.open()
    inner: Any = straight
    count = 500
    array = zarr.create_array(
        straight, shape=(count * 16,), chunks=(16,), dtype="i4", fill_value=FILL, compressors=None, name="x"
    )
    array[:] = np.repeat(np.arange(count), 16) + 1000
    way = Proxy(toxiproxy, bucket.port)
    way.add("latency", latency=1, jitter=3)
    way.add("slicer", average_size=256, size_variation=128, delay=50)
    kinds = [*(503, 429, 500, RESET, CUT, SHORT, 416) * 4, HANG]  # which takes an attempt all of its time
    right = failed = 0
    with FaultProxy(way.port, kinds, rate=0.2, seed=3, paths="/x/c/", methods="GET") as proxy:
        prefix = inner._store._place.prefix
        store = bucket.open(prefix, port=proxy.port, retry=QUICK, max_concurrency=16)
        spoilt = zarr.open_array(store, path="x", mode="r")
        passes = 20 if bucket.row.name == "s3fs" else 4
        for _ in range(passes):
            errors: list[Any] = []

            def note(error: Any, errors: list[Any] = errors) -> None:
                errors.append(error)

            found = {chunk.index[0]: chunk.data for chunk in stream_chunks(spoilt, on_error=note, ordered=False)}
            assert all((data == number + 1000).all() for number, data in found.items())
            assert len(found) + len(errors) == count
            assert all(f"x/c/{error.index[0]}" in str(error) and error.cause is not None for error in errors)
            right, failed = right + len(found), failed + len(errors)
        store.close()
    assert right + failed == passes * count
    assert proxy.met.total() > passes * count / 10
    assert failed < passes * count / 10  # 416 and lengths that lie do not pass, and four attempts may all fail
    straight.close()
    way.close()


@every_s3
def test_a_body_that_trickles_ends_at_the_attempts_time(bucket: CloudBucket) -> None:
    """No time-out of a socket ever trips; ours counts the whole attempt."""
    with FaultProxy(bucket.port, [SLOW_BODY], paths="/x/c/", methods="GET") as proxy:
        store = bucket.open(port=proxy.port, retry=Retry(attempts=1, attempt_timeout=2))
        array = written(store, compressors=None)
        with pytest.raises(StoreTimeoutError, match=r"get 'x/c/0' .* did not end within 2 s"):
            array[0]
        store.close()


def _user(port: int, name: str, actions: list[str], bucket_name: str) -> dict[str, str]:
    """Return temporary credentials that allow these actions alone, on the bucket's objects."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{bucket_name}/*"]}
    session = s3_client(port)
    session.close()
    from botocore.session import Session

    client = Session().create_client(
        "sts",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=CLOUD_ROWS[0].options(port)["storage_options"]["key"],
        aws_secret_access_key=CLOUD_ROWS[0].options(port)["storage_options"]["secret"],
    )
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    found = client.assume_role(RoleArn="arn:aws:iam::123456789012:role/tests", RoleSessionName=name, Policy=policy)[
        "Credentials"
    ]
    client.close()
    return {"key": found["AccessKeyId"], "secret": found["SecretAccessKey"], "token": found["SessionToken"]}


@every_s3
def test_without_the_right_to_list_a_missing_key_is_an_error_unless_it_is_said_to_be_absent(
    own_bucket: CloudBucket,
) -> None:
    """S3 answers 403 there. ``missing_on_403=True`` takes it for absence, and still reads the metadata first."""
    store = own_bucket.open("p")
    written(store)
    least = _user(own_bucket.port, "least", ["s3:GetObject", "s3:PutObject"], own_bucket.name)
    strict = own_bucket.open("p", storage_options=least, retry=None)
    lenient = own_bucket.open("p", storage_options=least, missing_on_403=True, retry=None)
    with pytest.raises(StoreAccessError, match="missing_on_403=True"):
        asyncio.run(strict.get("x/c/1", default_buffer_prototype()))
    array = zarr.open_array(lenient, path="x", mode="r")
    assert [int(chunk.data[0]) for chunk in stream_chunks(array)] == sparse()
    asyncio.run(store.clear())
    with pytest.raises(ChunkReadError, match="the metadata of 'x' were there before"):
        list(stream_chunks(array))
    for each in (store, strict, lenient):
        each.close()


@every_s3
def test_a_write_that_is_refused_in_an_answer_of_200_is_an_error(bucket: CloudBucket) -> None:
    """S3 tells of the failure of one of many removals in the answer's body."""
    from zarrstream.stores.buckets import s3 as bucket_s3

    refused = {"Errors": [{"Key": "k", "Code": "AccessDenied", "Message": "no"}]}
    store: Any = bucket.open(engine="s3fs")

    async def work() -> None:
        session = await store._store._session()
        assert isinstance(session.bucket, bucket_s3.S3Bucket)

        async def answer(*_: object, **__: object) -> Any:
            return refused

        await asyncio.gather(*(store.set(f"k/{name}", buffer(b"1")) for name in "ab"))
        page = await anext(session.bucket.pages(store._store._place.name("k/")))
        session.bucket._call = answer  # type: ignore[method-assign]
        with pytest.raises(StoreAccessError, match="may not be used so"):
            async with session.errors("k", writes=True):
                await session.bucket.delete([name for name, _ in page])

    asyncio.run(work())
    store.close()
