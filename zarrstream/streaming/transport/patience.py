"""A bound on how long a store may bring nothing, for what takes as long as there is much of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from zarrstream.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def answering(seconds: float | None, what: str) -> AsyncIterator[Callable[[], None]]:
    """Surround work that is to bring something at least every so many seconds.

    Parameters
    ----------
    seconds : float or None
        How long it may bring nothing; None for no limit.
    what : str
        Its name in the error.

    Yields
    ------
    callable
        To be called whenever it brought something.

    Raises
    ------
    StoreTimeoutError
        If it brought nothing for so long; its request is cancelled.
    """
    now = asyncio.get_running_loop().time
    renewed = now()
    try:
        async with asyncio.timeout(seconds) as limit:

            def brought() -> None:
                nonlocal renewed
                # Moving a limit costs more than a key: an eighth of it is exact enough.
                if seconds is not None and (at := now()) - renewed > seconds / 8:
                    renewed = at
                    limit.reschedule(at + seconds)

            yield brought
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise StoreTimeoutError(
            f"{what} brought nothing for timeout={seconds:g} s: raise timeout=, or see what holds it up"
        ) from error
