"""The ways of getting chunks out of S3 that `tests.benchmarks.clouds` compares: ours, the bare clients', the peers'."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numcodecs.zstd
import numpy as np
import zarr
import zarr.storage

from tests.cloud_services import S3_SECRET, S3_USER
from tests.clouds import S3_OPTIONS
from zarrstream import open_store, stream_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNKS = 256
SIDES = {
    64: 128,
    256: 256,
    1024: 512,
    4096: 1024,
}  # KiB of a chunk -> its side: float32, of which zstd leaves about half
BUCKET, PREFIX = "benchmark", "array"


class Site(NamedTuple):
    """Where the array is.

    Attributes
    ----------
    port : int
        Of the proxy.
    concurrency : int
        How many requests are under way.
    kib : int
        The size of a chunk.
    """

    port: int
    concurrency: int
    kib: int = 1024

    @property
    def endpoint(self) -> str:
        """The proxy's URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def side(self) -> int:
        """A chunk's."""
        return SIDES[self.kib]

    @property
    def prefix(self) -> str:
        """The array's."""
        return f"{PREFIX}-{self.kib}"

    @property
    def keys(self) -> list[str]:
        """The objects' names."""
        return [f"{self.prefix}/c/{number}/0" for number in range(CHUNKS)]


def values(side: int) -> np.ndarray[Any, Any]:
    """Return numbers that compress to about a half: a smooth field and noise in the lower bits."""
    noise = np.random.default_rng(5).integers(0, 1 << 8, (CHUNKS * side, side))
    return (np.arange(CHUNKS * side, dtype="f4")[:, None] + noise.astype("f4") / (1 << 8)).astype("f4")


def opened(site: Site, **options: Any) -> Any:
    """Return our store."""
    where = {"endpoint_url": site.endpoint, "region": "us-east-1", "storage_options": dict(S3_OPTIONS)}
    return open_store(f"s3://{BUCKET}/{site.prefix}", **{**where, "max_concurrency": site.concurrency, **options})


def ours(engine: str) -> Callable[[Site], tuple[Callable[[], float], Callable[[], None]]]:
    """A stream through one engine."""

    def make(site: Site) -> tuple[Callable[[], float], Callable[[], None]]:
        store = opened(site, engine=engine)
        array = zarr.open_array(store, mode="r")

        def run() -> float:
            return sum(float(chunk.data[0, 0]) for chunk in stream_chunks(array, concurrency=site.concurrency))

        return run, store.close

    return make


def gets(site: Site, connect: Callable[[], Any], *, threads: int = 0) -> tuple[Callable[[], float], Callable[[], None]]:
    """So many gets at once, and nothing else; ``connect`` gives, on a loop, what gets and what closes.

    With threads each value is decoded in one of them: a floor, where nothing is checked, bounded, ordered or clipped.
    """
    loop = asyncio.new_event_loop()
    get, close = loop.run_until_complete(connect())

    pool = ThreadPoolExecutor(threads) if threads else None

    def first(value: Any) -> float:
        return float(np.frombuffer(numcodecs.zstd.decompress(value), "f4")[0])

    async def all_of_them() -> float:
        names, total = iter(site.keys), 0.0

        async def work() -> None:
            nonlocal total
            for name in names:
                value = await get(name)
                if pool is not None:
                    found = await loop.run_in_executor(pool, first, value)
                    total += found  # by now: others have added meanwhile

        await asyncio.gather(*(work() for _ in range(site.concurrency)))
        return total

    def end() -> None:
        if pool is not None:
            pool.shutdown()
        loop.run_until_complete(close())
        loop.close()

    return lambda: loop.run_until_complete(all_of_them()), end


def obstore_gets(site: Site, *, threads: int = 0) -> tuple[Callable[[], float], Callable[[], None]]:
    """obstore alone, or with what decodes in threads."""
    import obstore
    from obstore.store import S3Store

    async def connect() -> Any:
        store = S3Store(
            BUCKET,
            endpoint=site.endpoint,
            region="us-east-1",
            access_key_id=S3_USER,
            secret_access_key=S3_SECRET,
            client_options={"allow_http": True},
        )

        async def get(name: str) -> Any:
            return await (await obstore.get_async(store, name)).bytes_async()

        async def close() -> None:
            return None

        return get, close

    return gets(site, connect, threads=threads)


def s3fs_gets(site: Site) -> tuple[Callable[[], float], Callable[[], None]]:
    """s3fs alone."""
    import s3fs

    async def connect() -> Any:
        system = s3fs.S3FileSystem(
            **S3_OPTIONS,
            endpoint_url=site.endpoint,
            asynchronous=True,
            skip_instance_cache=True,
            config_kwargs={"max_pool_connections": 2 * site.concurrency},
        )
        client = await system.set_session()
        return lambda name: system._cat_file(f"{BUCKET}/{name}"), client.close

    return gets(site, connect)


def zarr_on_s3fs(site: Site) -> tuple[Callable[[], float], Callable[[], None]]:
    """zarr's whole read."""
    options = {**S3_OPTIONS, "endpoint_url": site.endpoint, "skip_instance_cache": True}
    options["config_kwargs"] = {"max_pool_connections": 2 * site.concurrency}
    store: Any = zarr.storage.FsspecStore.from_url(f"s3://{BUCKET}/{site.prefix}", storage_options=options)
    array = zarr.open_array(store, mode="r")

    def run() -> float:
        with zarr.config.set({"async.concurrency": site.concurrency}):
            return float(np.asarray(array[:])[:: site.side, 0].sum())

    def end() -> None:
        from zarr.core.sync import sync

        sync(store.fs._s3.close())

    return run, end


def tensorstore(site: Site) -> tuple[Callable[[], float], Callable[[], None]]:
    """TensorStore, so many reads ahead."""
    import tensorstore as ts

    kvstore = {"driver": "s3", "bucket": BUCKET, "path": f"{site.prefix}/", "endpoint": site.endpoint}
    kvstore |= {"aws_region": "us-east-1", "aws_credentials": {"type": "environment"}}
    context = {"s3_request_concurrency": {"limit": site.concurrency}, "cache_pool": {"total_bytes_limit": 0}}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore, "context": context}, read=True).result()

    def run() -> float:
        ahead, total = [], 0.0
        for start in range(0, CHUNKS * site.side, site.side):
            ahead.append(array[start : start + site.side].read())
            if len(ahead) == site.concurrency:
                total += float(ahead.pop(0).result()[0, 0])
        return total + sum(float(read.result()[0, 0]) for read in ahead)

    return run, lambda: None


WAYS: dict[str, tuple[str, Callable[[Site], tuple[Callable[[], float], Callable[[], None]]]]] = {
    "ours, obstore": ("obstore", ours("obstore")),
    "ours, s3fs": ("s3fs", ours("s3fs")),
    "obstore's gets": ("obstore", obstore_gets),
    "gets and decoding": ("obstore", partial(obstore_gets, threads=2)),
    "s3fs's gets": ("s3fs", s3fs_gets),
    "zarr on s3fs": ("s3fs", zarr_on_s3fs),
    "TensorStore": ("tensorstore", tensorstore),
}
