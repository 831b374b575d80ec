"""One array, or a hierarchy of them, in a MongoDB GridFS bucket that any GridFS client reads."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from zarrstream.errors import StoreError, StoreOptionError
from zarrstream.mappings.base import ByteMapping, checked_key, contiguous, level, pairs
from zarrstream.mappings.gridfs import listing
from zarrstream.mappings.gridfs.session import Connection
from zarrstream.mappings.gridfs.sight import Sight
from zarrstream.mappings.gridfs.transactions import WritableFiles
from zarrstream.mappings.gridfs.url import address, checked_bucket, place
from zarrstream.mappings.gridfs.v2 import Documents
from zarrstream.mappings.sqlite.statements import successor

if TYPE_CHECKING:
    from collections.abc import Buffer, Iterable, Iterator, Mapping

logger = logging.getLogger("zarrstream")
Layout: TypeAlias = Literal["gridfs", "zarr-v2"]
#: What is taken where nothing is said: GridFS's own default, and those of zarr 2's MongoDBStore.
_BUCKETS = {"gridfs": "fs", "zarr-v2": "zarr_collection"}
_V2_DATABASE = "mongodb_zarr"


class GridFSMapping(ByteMapping):
    """Bytes under string keys as files in a GridFS bucket of MongoDB, named ``{array_id}/{key}``.

    Parameters
    ----------
    url : str, optional
        What the driver connects to, ``mongodb://`` or ``mongodb+srv://``, with credentials and options as pymongo has
        them. The path is the database.
    host : str, optional
        Instead of a URL: ``"name"``, ``"name:port"``, or several with commas.
    database : str, optional
        Where the URL names none.
    username, password : str, optional
        With a host.
    bucket : str, optional
        The bucket; by default GridFS's own, ``"fs"``. With ``layout="zarr-v2"`` the collection, by default
        ``"zarr_collection"``.
    array_id : str, optional
        What the names of the files begin with, so that many arrays share one bucket. By default the keys are the names.
    layout : {"gridfs", "zarr-v2"}, optional
        ``"zarr-v2"`` is what zarr 2's ``MongoDBStore`` wrote: one document per key, of 16 MB at most.
    timeout : float or None, optional
        How long one call may take, in seconds, with all that it tries; None leaves it to the URL. A writer that is
        killed within its transaction holds its keys for as long as the servers' ``transactionLifetimeLimitSeconds``,
        60 s by default: the next one waits, and so this is more.

    Raises
    ------
    StoreOptionError
        A URL or an option that cannot be.

    Notes
    -----
    **Acknowledgement**: unless the URL says otherwise (``w``, ``journal``), a write that returned is in the journals of
    a majority of the replica set: it survives kills, power loss and fail-over. On a single server it survives the kill
    and the power loss of that. Reads go to the primary.

    **Atomicity**: on a replica set or a sharded cluster each call is a transaction, `setdefault` and `update_many`
    and `pop` included, up to 8 MiB and 500 keys; a larger batch is several, and says which were written. A
    larger value, and any on a server without transactions, is uploaded without a name and then gets its name in one
    step. No reader, also of ranges, sees half a value, or none of two. `clear_under` removes 1024 keys at a time; keys
    are listed in pages: keys written meanwhile may or may not be seen. Which of two versions is newer is counted by the
    server; clocks do not matter. Among revisions that other clients have uploaded the greatest ``_id`` counts, and what
    was written here counts before them: it replaces them.

    **A killed process** leaves no piece without its file. What an upload without transactions leaves is removed by the
    next writer, five minutes later.

    **A lost place**: that a chunk is absent is believed only after a look, begun after the miss, at the metadata of the
    nearest array or group above it that this mapping has seen; concurrent misses share one look, and none is kept.
    Where those metadata are gone, or the collection is, or is another one of the same name, the call raises
    `StoreUnavailableError`; so do listings that find nothing where the collection is gone, and writes within a second.
    What this mapping itself has removed is not missed. Where nothing was ever seen, nothing is missed either: an
    unknown database reads as empty. `close` forgets what was seen; a pickled copy knows it.

    **Threads**: any number. **Processes**: any number, on any machine. All mappings of one process and URL share one
    client, closed by the last; none is carried through a fork.

    **Pickling**: to the URL and options; a copy reconnects. A URL with a password in it makes the pickle a secret.

    **Size**: any, in pieces of 1 MiB; under 15 MiB one piece. Ranges fetch the pieces that they touch.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str | None = None,
        database: str | None = None,
        username: str | None = None,
        password: str | None = None,
        bucket: str | None = None,
        array_id: str = "",
        layout: Layout = "gridfs",
        timeout: float | None = 90.0,
    ) -> None:
        if layout not in get_args(Layout):
            raise StoreOptionError(f"layout is 'gridfs' or 'zarr-v2', not {layout!r}")
        if not _is_time(timeout):
            raise StoreOptionError(f"timeout is a number of seconds greater than 0, or None, not {timeout!r}")
        if layout == "zarr-v2" and database is None and (host or (url and not _has_path(url))):
            database = _V2_DATABASE
        where = address(url, database=database, host=host, username=username, password=password)
        self._array_id = _checked_id(array_id)
        self._layout: Layout = layout
        self._bucket = checked_bucket(_BUCKETS[layout] if bucket is None else bucket)
        self._place = place(where, self._bucket, array_id, layout=layout)
        self._connection = Connection(where, timeout=timeout, place=self._place)
        self._files = (WritableFiles if layout == "gridfs" else Documents)(self._connection, self._bucket)
        self._prefix = level(array_id)
        self._sight = Sight(self._place, self._existing, self._identity)
        self._prepared = False
        self._hinted = False

    @property
    def place(self) -> str:
        """Servers, database, bucket and array: ``mongodb://host:27017/database/bucket/array_id``."""
        return self._place

    @property
    def whole_place(self) -> tuple[str, str]:
        """The place of the whole bucket, and what the names of this array's files begin with."""
        return place(self._connection.where, self._bucket, "", layout=self._layout), self._prefix

    def __repr__(self) -> str:
        layout = "" if self._layout == "gridfs" else f", layout={self._layout!r}"
        return f"{type(self).__name__}({self._place!r}{layout})"

    def __reduce__(self) -> tuple[Any, ...]:
        where = self._connection.where
        make = partial(
            type(self),
            database=where.database,
            bucket=self._bucket,
            array_id=self._array_id,
            layout=self._layout,
            timeout=self._connection.timeout,
        )
        return make, (where.url,), self._sight.state()

    def __setstate__(self, state: tuple[str | None, tuple[str, ...]]) -> None:
        # A worker that reaches another server than we do must say so, and not read fill values.
        self._sight.restore(state)

    # -- values -------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        return self.read(key)

    def __setitem__(self, key: str, value: Buffer) -> None:
        name, content = self._name(key), _flat(value)
        self._before_write()
        self._files.write([(name, content)])
        self._sight.saw(key, content)

    def __delitem__(self, key: str) -> None:
        if not self._remove(key):
            self._sight.missed([key])
            raise KeyError(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes ``start`` to ``stop`` of a value, in two queries. See `ByteMapping.read`."""
        value = self._files.read(self._name(key), start, stop)
        if value is None:
            self._sight.missed([key])
            raise KeyError(key)
        if not start and stop is None:
            self._sight.saw(key, value)
        return value

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there, 500 with two queries. See `ByteMapping.read_many`."""
        names = {key: self._name(key) for key in keys}
        values = self._files.read_many(names.values())
        found = {key: values[name] for key, name in names.items() if name in values}
        for key, value in found.items():
            self._sight.saw(key, value)
        if len(found) < len(names):
            self._sight.missed(names.keys() - found.keys())
        return found

    def size(self, key: str) -> int:
        """Return the length of a value in bytes, from its file document. See `ByteMapping.size`."""
        length = self._files.size(self._name(key))
        if length is None:
            self._sight.missed([key])
            raise KeyError(key)
        self._sight.saw(key)
        return length

    def discard(self, key: str) -> None:
        """Remove a key if it is there."""
        self._remove(key)

    def pop(self, key: str, /, *default: Any) -> Any:  # noqa: ANN401  # ``default`` may be anything
        """Remove a key and return its value; ``default`` where it is absent, if that is given. Atomic."""
        value = self._files.take(self._name(key))
        if value is None:
            self._sight.missed([key])
            if default:
                return default[0]
            raise KeyError(key)
        self._sight.removed(key)
        return value

    def setdefault(self, key: str, default: Buffer = b"") -> bytes:
        """Write ``default`` unless the key is there, and return what is there then. Atomic."""
        name, content = self._name(key), _flat(default)
        self._before_write()
        found = self._files.insert(name, content)
        self._sight.saw(key)
        return bytes(content) if found is None else found

    def update_many(self, items: Iterable[tuple[str, Buffer]] | Mapping[str, Buffer]) -> None:
        """Write many values: in one transaction up to 8 MiB and 500 keys. See `ByteMapping.update_many`."""
        # Taken whole before the transaction begins: what computes them is not ours, and may be slow, or fork.
        values = {key: (self._name(key), _flat(value)) for key, value in pairs(items)}
        if not values:
            return
        self._before_write()
        try:
            self._files.write(list(values.values()))
        except StoreError as error:
            if hasattr(error, "written"):
                error.written = tuple(name.removeprefix(self._prefix) for name in error.written)
            raise
        for key in values:
            self._sight.saw(key)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        if self._existing([key]):
            self._sight.saw(key)
            return True
        self._sight.missed([key])
        return False

    def __iter__(self) -> Iterator[str]:
        return self.keys_under("")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        found = self._files.names(self._prefix, successor(self._prefix), None, 1)
        return bool(found) or self._nothing()

    def keys_under(self, prefix: str) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in the order of their code points. Reads pages of 1024 keys."""
        return self._listed(listing.names_under(self._name(prefix), self._files.names))

    def _listed(self, names: Iterator[str]) -> Iterator[str]:
        name = None
        for name in names:
            yield name[len(self._prefix) :]
        if name is None:
            self._nothing()

    def children(self, path: str) -> Iterator[str]:
        """Yield the names one level below ``path``, without visiting what is beneath them."""
        names = dict.fromkeys(listing.children(self._name(level(path)), self._files.names))
        if not names:
            self._nothing()
        return iter([name for name in names if name])

    def clear_under(self, path: str) -> None:
        """Remove every key beneath ``path`` (``""``: every key), 1024 in one transaction."""
        low = self._name(level(path))
        self._files.remove_range(low, successor(low))
        self._sight.removed_under(path)

    def close(self) -> None:
        """Release the client, which the last of this process closes, and forget what was seen."""
        self._connection.close()
        self._sight.forget()
        self._prepared = False

    # -- what all of them do ------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        return f"{self._prefix}{checked_key(key)}"

    def _before_write(self) -> None:
        self._sight.look()  # before the indexes are made, and the collection with them
        if not self._prepared:
            self._files.prepare()
            self._prepared = True

    def _remove(self, key: str) -> int:
        count = self._files.remove([self._name(key)])
        self._sight.removed(key)
        return count

    def _nothing(self) -> bool:
        """Return False, for a listing that has found nothing, if that may be."""
        self._sight.missed([])
        return False

    def _existing(self, keys: list[str]) -> set[str]:
        found = self._files.existing([self._name(key) for key in keys])
        return {name[len(self._prefix) :] for name in found}

    def _identity(self) -> str | None:
        """Return what tells the collection from any other one of its name; None where there is none."""
        found = self._connection.identity(self._files.collection)
        if found is None and self._layout == "gridfs" and not self._hinted:
            self._hinted = True
            if self._connection.identity(_BUCKETS["zarr-v2"]) is not None:
                logger.warning(
                    "%s is empty, and beside it is the collection %r, as zarr 2's MongoDBStore made it: "
                    "pass layout='zarr-v2' to open that",
                    *(self._place, _BUCKETS["zarr-v2"]),
                )
        return found


def _flat(value: Buffer) -> bytes | memoryview:
    """Return a value as bytes, or as a view of such, without a copy."""
    content = contiguous(value)
    return content if isinstance(content, bytes) else content.cast("B")


def _is_time(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 < value < threading.TIMEOUT_MAX)


def _has_path(url: str) -> bool:
    return bool(url.partition("?")[0].partition("://")[2].partition("/")[2])


def _checked_id(array_id: object) -> str:
    if not isinstance(array_id, str) or array_id != array_id.strip("/"):
        raise StoreOptionError(f"array_id is a text that neither begins nor ends with a slash, not {array_id!r}")
    return checked_key(array_id)
