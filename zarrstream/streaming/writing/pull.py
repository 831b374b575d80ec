"""The wait for an awaited source, during which what the store acknowledges is taken in."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from zarrstream.streaming.writing.writer import END, NOTHING_YET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from zarrstream.streaming.engine.window import LoopInbox
    from zarrstream.streaming.writing.writer import Writing


class Pull:
    """Awaits the source's next item; what the store acknowledges meanwhile is taken in at once.

    Parameters
    ----------
    work : Writing
        What takes it in.
    inbox : LoopInbox
        Where it arrives.
    """

    def __init__(self, work: Writing, inbox: LoopInbox) -> None:
        self._work, self._inbox = work, inbox
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._context = copy_context()
        self._timer: asyncio.TimerHandle | None = None
        self._awaits = self._ended = False
        self.error: BaseException | None = None  # of `progress` or of the checkpoint: it ends the write
        inbox.listener = self._hear

    async def next(self, source: AsyncIterator[Any]) -> Any:
        """Return the item; `NOTHING_YET` where a chunk has failed first, which ends the write."""
        task = self._task
        assert task is not None
        cancelling = task.cancelling()
        self._awaits, self._ended = True, False
        self._look_again()
        try:
            item = await anext(source, END)
        except asyncio.CancelledError:
            if not self._ended or task.uncancel() > cancelling:
                raise
            return NOTHING_YET
        finally:
            self._awaits = False
        if self._ended:  # the source has caught it, and goes on
            task.uncancel()
        return item

    def close(self) -> None:
        """Hear no more."""
        self._inbox.listener = None
        if self._timer is not None:
            self._timer.cancel()

    def _hear(self) -> None:
        """Take in what has arrived, and end the wait where that ends the write."""
        if not self._awaits or self._ended:
            return
        try:
            self._ended = self._context.run(self._work.take_in_meanwhile)
        except BaseException as error:  # noqa: BLE001  # the write raises it
            self._ended, self.error = True, error
        if self._ended and self._task is not None:
            self._task.cancel()

    def _look_again(self) -> None:
        """Look when the next chunk may be overdue, too. No chunk that begins later is overdue earlier."""
        if self._timer is None and not self._work.window.idle:
            patience = self._work.window.patience()
            self._timer = None if patience is None else self._loop.call_later(patience, self._look)

    def _look(self) -> None:
        self._timer = None
        self._hear()
        if self._awaits and not self._ended:
            self._look_again()
