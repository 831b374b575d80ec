"""Chunks out of S3, beside the bare clients and the peers, in turns in one process: MinIO through toxiproxy.

``python -m tests.benchmarks.clouds [--latency MS …] [--concurrency N …] [--kib N …] [--ways NAME …] [--rounds N]
[--json FILE]``. The servers are started as the tests start them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import zarr

from tests.benchmarks.cloud_ways import BUCKET, CHUNKS, SIDES, WAYS, Site, opened, values
from tests.cloud_services import S3_SECRET, S3_USER, Proxy, minio, toxiproxy
from tests.clouds import s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs import Server

#: Our way -> the way that it is measured by -> how many times as fast it is to be, at least.
REQUIRED = {
    "ours, obstore": {"obstore's gets": 0.85, "TensorStore": 1.1},
    "ours, s3fs": {"s3fs's gets": 0.85, "zarr on s3fs": 1.3},
}


def started(stack: ExitStack, fixture: Any) -> Server:
    """Start a fixture's server, as pytest does: what follows its ``yield`` stops it, also after an error of ours."""
    steps = fixture.__wrapped__()
    server: Server = next(steps)
    stack.callback(next, steps, None)
    return server


@contextmanager
def through_a_proxy(sizes: list[int]) -> Iterator[Proxy]:
    """Start MinIO, fill it, and put a proxy before it."""
    with ExitStack() as stack:
        server, between = started(stack, minio), started(stack, toxiproxy)
        client = s3_client(server.port)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        proxy = Proxy(between, server.port)
        stack.callback(proxy.close)
        for kib in sizes:
            site = Site(server.port, 16, kib)
            store, data = opened(site), values(site.side)
            array = zarr.create_array(store, shape=data.shape, chunks=(site.side, site.side), dtype="f4", zarr_format=3)
            array[:] = data
            store.close()
        yield proxy


class Figures(NamedTuple):
    """What one way was measured at.

    Attributes
    ----------
    speed : float
        Chunks per second.
    client, servers, idle : float
        Milliseconds of one core per chunk that this process spent, that MinIO and toxiproxy spent, that nobody did.
    """

    speed: float
    client: float
    servers: float
    idle: float


def spent() -> list[float]:
    """Return the seconds since some time ago, and what of them this process and its servers spent, and nobody did."""
    this = psutil.Process()
    client, *servers = (sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))
    every = psutil.cpu_times()
    return [time.perf_counter(), client, sum(servers), every.idle + getattr(every, "iowait", 0.0)]


def measured(site: Site, rounds: int, names: list[str]) -> dict[str, Figures]:
    """Return the figures of each way: medians, the order alternating, the values checked."""
    expected = float(values(site.side)[:: site.side, 0].astype("f8").sum())
    ways = {name: WAYS[name][1](site) for name in names if find_spec(WAYS[name][0]) is not None}
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in list(ways) if turn % 2 else list(reversed(ways)):
            before = spent()
            found = ways[name][0]()
            if turn:  # the first is to get warm
                taken[name].append([after - former for after, former in zip(spent(), before, strict=True)])
            if found and abs(found - expected) > 1e-3 * abs(expected):
                raise AssertionError(f"{name} reads {found}, not {expected}: what is quick and wrong is no yardstick")
    for _, end in ways.values():
        end()
    return {name: figures(passes) for name, passes in taken.items()}


def figures(passes: list[list[float]]) -> Figures:
    """Return one way's figures: the median of the speeds, and the sums of the rest, whose clock is a coarse one."""
    chunks = CHUNKS * len(passes)
    _, *rest = (1000 * sum(column) / chunks for column in zip(*passes, strict=True))
    return Figures(CHUNKS / statistics.median(seconds for seconds, *_ in passes), *rest)


def shown(found: dict[str, Figures], latency: int, site: Site) -> str:
    """Return one measurement as lines of text."""
    lines = [
        f"{latency} ms added, {site.concurrency} requests, chunks of {site.kib} KiB; ms of a core per chunk:",
        f"  {'':18}{'chunks/s':>8}{'client':>8}{'servers':>9}{'idle':>6}",
    ]
    lines += [f"  {name:18}{way[0]:8.0f}{way[1]:8.2f}{way[2]:9.2f}{way[3]:6.2f}" for name, way in found.items()]
    for mine, peers in REQUIRED.items():
        for peer, least in peers.items():
            if mine in found and peer in found:
                lines.append(f"  {mine} / {peer}: {found[mine].speed / found[peer].speed:.2f} (asked for: {least})")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latency", type=int, nargs="+", default=[0, 50], metavar="MS")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32], metavar="N")
    parser.add_argument("--kib", type=int, nargs="+", default=[1024], choices=SIDES, metavar="N")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    # TensorStore takes its credentials from nowhere else.
    os.environ |= {"AWS_ACCESS_KEY_ID": S3_USER, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
    found = []
    with through_a_proxy(asked.kib) as proxy:
        for latency in asked.latency:
            if latency:
                proxy.add("latency", latency=latency)
            for concurrency, kib in product(asked.concurrency, asked.kib):
                site = Site(proxy.port, concurrency, kib)
                ways = measured(site, asked.rounds, asked.ways)
                listed = {name: way._asdict() for name, way in ways.items()}
                found.append({"latency": latency, "concurrency": concurrency, "KiB": kib, "ways": listed})
                print(shown(ways, latency, site), flush=True)
            proxy.mend()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
