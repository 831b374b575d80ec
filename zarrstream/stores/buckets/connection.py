"""What a client makes on its first request: made once, and not again after its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class ClosedError(Exception):
    """A request that came after the end of its client."""


class Connection:
    """What a client makes on its first request: once, however many come together, and not again after its end.

    Parameters
    ----------
    connect : callable
        Makes it.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connect = connect
        self._changing = asyncio.Lock()
        self._over = False
        self.made = False

    async def make(self) -> None:
        """Make it, if nobody did meanwhile.

        Raises
        ------
        ClosedError
            The client was closed.
        """
        async with self._changing:
            if self._over:
                raise ClosedError
            if not self.made:
                await self._connect()
                self.made = True

    async def end(self) -> bool:
        """Make no more of it; return whether there is one to close."""
        async with self._changing:
            self._over, made, self.made = True, self.made, False
        return made
