"""What a coroutine has set in its context is given back there, and nowhere else."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import gc
import logging
from typing import TYPE_CHECKING

import pytest

from tests.optional import require
from tests.test_floors import FILES, name_of
from zarrstream import telemetry
from zarrstream.concurrency.deadline import remaining, until
from zarrstream.notes import Note, noted, noting

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path


def _below() -> AbstractContextManager[None]:
    require("opentelemetry.sdk")
    return telemetry.below({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})


def _under() -> AbstractContextManager[None]:
    provider = require("opentelemetry.sdk.trace").TracerProvider(shutdown_on_exit=False)
    return telemetry.under(provider.get_tracer("x").start_span("x"))


@pytest.mark.parametrize(
    "within", [lambda: until(5), lambda: noting(Note()), _below, _under], ids=["until", "noting", "below", "under"]
)
def test_a_coroutine_that_is_garbage_leaves_the_collecting_context_alone(
    within: Callable[[], AbstractContextManager[object]], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised where nobody could catch it, nothing is logged, and the collector's own variables stay."""

    async def work() -> None:
        with within():
            await asyncio.get_running_loop().create_future()

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(work()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    caplog.clear()
    coroutine = tasks[0].get_coro()
    assert coroutine is not None
    note = Note()
    with until(90), noting(note), caplog.at_level(logging.WARNING):
        coroutine.close()  # as the collector does
        assert (remaining() or 0) > 80
        assert list(noted()) == [note]
    assert not caplog.records
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own word on what was just closed
    del coroutine
    tasks.clear()
    gc.collect()


def test_each_context_is_given_back_to_whoever_set_it() -> None:
    """In its own context a variable has its former value afterwards, also after an error."""

    def work() -> None:
        with pytest.raises(ZeroDivisionError), until(5):
            raise ZeroDivisionError
        assert remaining() is None

    contextvars.copy_context().run(work)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_one_place_resets_context_variables(path: Path) -> None:
    """Everywhere else a reset would raise in coroutines that are collected as garbage."""
    if name_of(path) == "zarrstream.concurrency.context":
        return
    tree = ast.parse(path.read_text())
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [one for one in calls if isinstance(one, ast.Attribute) and one.attr == "reset"]
