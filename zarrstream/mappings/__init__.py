"""Bytes under string keys: one back end per folder, synchronous, and without any knowledge of zarr."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def on_use(package: str, **names: str) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package whose names come from its modules when they are asked for first.

    Parameters
    ----------
    package : str
        The package's full name.
    **names : str
        For each name the module that has it: a driver is imported by whoever uses it, and by nobody else.
    """

    def __getattr__(name: str) -> object:  # noqa: N807  # a module's
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        return found

    return __getattr__
