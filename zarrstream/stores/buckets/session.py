"""One event loop's client of a bucket: what its errors mean, and whether it is still open."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from zarrstream.errors import ZarrStreamError, raise_alone
from zarrstream.stores.buckets import errors as remote_errors
from zarrstream.stores.buckets import failures as remote_failures
from zarrstream.stores.buckets.connection import ClosedError
from zarrstream.stores.probes import Probes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from zarrstream.stores.buckets.bucket import Bucket
    from zarrstream.stores.buckets.location import RemotePlace


class AbsentError(Exception):
    """The server says that a key is not there; whether that is to be believed is another question."""


class Session:
    """One loop's client, and the probes that go through it.

    Parameters
    ----------
    bucket : Bucket
        The client.
    place : RemotePlace
        Where it leads.
    missing_on_403 : bool
        Whether a refusal of a single key counts as its absence.
    """

    def __init__(self, bucket: Bucket, place: RemotePlace, *, missing_on_403: bool) -> None:
        self._bucket = bucket
        self._place = place
        self._missing_on_403 = missing_on_403
        self.probes = Probes()
        self.closed = False

    @property
    def bucket(self) -> Bucket:
        """The client; `ClosedError` where it is closed."""
        if self.closed:
            raise ClosedError
        return self._bucket

    @asynccontextmanager
    async def errors(self, key: str, *, writes: bool = False) -> AsyncIterator[None]:
        """Make the client's errors ours; where a key is read, its absence is `AbsentError`."""
        try:
            yield
        except ZarrStreamError:
            raise
        except Exception as error:
            what = remote_failures.CLOSED if self.closed else remote_errors.failure(error, self._place.back_end)
            gone = isinstance(error, FileNotFoundError)
            denied = what is remote_failures.DENIED and remote_errors.has_code(error)
            if not writes and (gone or (self._missing_on_403 and denied)):
                raise AbsentError from error
            raise_alone(translated(error, what, self._place, key))

    async def close(self) -> None:
        """Close the client's connections."""
        self.closed = True  # before: what is on its way fails by it, and is not to be tried again
        await self._bucket.close()


def translated(error: Exception, what: remote_failures.Failure, place: RemotePlace, key: str = "") -> ZarrStreamError:
    """Return the error that a failure at a place becomes."""
    return remote_errors.translated(error, what, place=str(place), key=key, secrets=place.secrets())
