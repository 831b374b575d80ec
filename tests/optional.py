"""Modules that not every machine has: a test that needs one says so with `require`."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

#: Modules that an extra of zarrstream brings; any other is installed under its own name.
EXTRAS = {
    "adlfs": "azure",
    "dask": "dask",
    "distributed": "dask",
    "gcsfs": "gcs",
    "lmdb": "shm",
    "obstore": "obstore",
    "opentelemetry.exporter.otlp": "otel",
    "opentelemetry.sdk": "otel",
    "psycopg": "postgresql",
    "pymongo": "mongodb",
    "rich": "cli",
    "s3fs": "s3",
    "tenacity": "retry",
    "typer": "cli",
    "zstandard": "zstd",
}


def require(module: str) -> Any:
    """Import a module, or skip on a user's machine, or fail under CI, where everything has to be there.

    The tox environment `bare`, which is there to have none, sets ``ZARRSTREAM_BARE`` and skips.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
    absent(f"{module} is not installed: {install_command(module)}", expected="ZARRSTREAM_BARE" not in os.environ)
    return None


def install_command(module: str) -> str:
    """Say how a missing module is installed."""
    for name, extra in EXTRAS.items():
        if f"{module}.".startswith(f"{name}."):
            return f"pip install 'zarrstream[{extra}]'"
    own = module if module.startswith("opentelemetry.") else module.partition(".")[0]
    return f"pip install {own.replace('.', '-')}"


def absent(reason: str, *, expected: bool = True) -> None:
    """Skip for something that is not here; where CI expects it, fail: a test that does not run there proves nothing."""
    if expected and os.environ.get("CI"):
        pytest.fail(f"CI has to have it: {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
