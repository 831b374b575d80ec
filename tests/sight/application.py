"""An application as docs/telemetry.md sets it up: it streams, fails, retries and asks a cache, and waits to be ended.

``python -m tests.sight.application FOLDER`` prints a line when all is told; its exporters are told by environment.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import zarr
from opentelemetry import trace
from zarr.storage import MemoryStore

from zarrstream import open_store, stream_chunks, stream_slices, telemetry, write_stream
from zarrstream.faults.script import Fault
from zarrstream.faults.store import FaultyStore
from zarrstream.stores.wrappers.traced import TracedStore

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def setup() -> str:
    """Return what the page says that an application does."""
    [block] = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


def work(folder: str) -> None:
    """Do something of all that can be told."""
    store = open_store(f"sqlite:///{folder}/x.db", trace=True)
    array = zarr.create_array(store, name="a", shape=(64, 64), chunks=(16, 16), dtype="f8", fill_value=-1)
    values = np.random.default_rng(0).random((16, 16))
    with trace.get_tracer("application").start_as_current_span("job"):
        write_stream(array, (((row, column), values) for row in range(4) for column in range(4)))
        for _ in stream_slices(array, thickness=16):
            pass
    failing = TracedStore(FaultyStore(MemoryStore(), Fault(kind="error", operation="get", key="c/1")))
    lost = zarr.create_array(failing, data=np.arange(4), chunks=(2,))
    for _ in stream_chunks(lost, on_error="skip"):
        pass
    telemetry.retried("get", "sqlite")
    telemetry.cache_asked(True)
    telemetry.cache_asked(False)
    store.close()


if __name__ == "__main__":
    exec(compile(setup(), PAGE, "exec"))  # noqa: S102  # that is what the page says
    work(sys.argv[1])
    provider = trace.get_tracer_provider()
    provider.force_flush()  # type: ignore[attr-defined]
    print("told", flush=True)  # noqa: T201  # the test that started it reads it
    sys.stdin.read()
