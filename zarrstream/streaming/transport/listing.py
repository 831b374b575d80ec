"""Which of an array's objects are in its store, asked of the store once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarrstream.errors import StoreUnavailableError
from zarrstream.streaming.layout.bitmap import Presence
from zarrstream.streaming.transport.files import FileTransport
from zarrstream.streaming.transport.patience import answering
from zarrstream.streaming.transport.stores import sync_port

if TYPE_CHECKING:
    from zarrstream.streaming.codecs.array import ArrayCodec


async def stored_objects(
    codec: ArrayCodec,
    timeout: float | None = None,  # noqa: ASYNC109  # for each answer, not for the whole
    *,
    reading: bool = False,
) -> Presence | None:
    """List which of an array's objects are in its store; None where the store cannot list.

    Parameters
    ----------
    codec : ArrayCodec
        The array.
    timeout : float, optional
        Seconds for which the listing may bring nothing.
    reading : bool, optional
        Whether an empty listing would be an empty stream. For a checkpoint it means that all is written again, which
        loses nothing.

    Raises
    ------
    StoreUnavailableError
        The listing has nothing of the array, not even its metadata: the place is lost, or its server cannot list.
    StoreTimeoutError
        It brought nothing for so long.
    StoreAccessError
        A folder of the array may not be listed.
    """
    store = codec.array.store
    if not store.supports_listing:
        return None
    port = sync_port(codec)
    if isinstance(port, FileTransport):
        return await asyncio.to_thread(_presence_of, codec, port)
    presence, document, is_there = Presence(codec.grid.objects), codec.prefix + codec.document, False
    async with answering(timeout, f"the listing of {codec.array.store_path}") as brought:
        async for key in store.list_prefix(codec.prefix):
            brought()
            if (index := codec.object_at(key)) is not None:
                presence.add(index)
            elif key == document:
                is_there = True
    if reading and not is_there and not len(presence):
        raise StoreUnavailableError(
            f"the listing of {codec.array.store_path} is empty, and lacks the array's own {document!r}, so that it "
            f"cannot be whole: the array is lost, or its server cannot list. Without a listing all chunks can be read "
            f"(include_missing=True)"
        )
    return presence


def _presence_of(codec: ArrayCodec, port: FileTransport) -> Presence:
    presence = Presence(codec.grid.objects)
    for key in port.keys():  # noqa: SIM118  # no mapping
        if (index := codec.object_at(key)) is not None:
            presence.add(index)
    return presence
