"""What a MongoDB URL names, as far as we have to know it: the driver gets the URL as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from zarrstream.errors import StoreOptionError

_URL = re.compile(r"([A-Za-z+_]+)://([^/?]*)(?:/([^?]*))?(?:\?(.*))?", re.DOTALL)
_HOST = re.compile(r"(?:[\w.\-]+|\[[0-9A-Fa-f:.%]+\]|%2[Ff][\w.\-%]+)(?::(\d+))?")
_DRIVERS = {"mongodb": "mongodb", "mongodb+srv": "mongodb+srv", "mongo_gridfs": "mongodb"}
_EXAMPLE = "mongodb://user:password@host:27017/database"


@dataclass(frozen=True)
class Address:
    """Which database of which servers.

    Attributes
    ----------
    url : str
        What the driver connects to, credentials included.
    hosts : str
        The scheme and the servers, without credentials: sorted, in small letters, with their ports.
    database : str
        The database's name.
    options : frozenset of str
        The names of the URL's options, in small letters.
    secrets : tuple of str
        What no message may show.
    """

    url: str
    hosts: str
    database: str
    options: frozenset[str]
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Address({self.hosts}/{self.database})"


def address(
    url: str | None,
    *,
    database: str | None = None,
    host: str | None = None,
    username: str | None = None,
    password: str | None = None,
) -> Address:
    """Return what a URL names, or parts.

    Parameters
    ----------
    url : str or None
        As the driver takes it; ``mongo_gridfs://`` is another name of ``mongodb://``.
    database : str, optional
        Where the URL names none.
    host : str, optional
        ``"name"``, ``"name:port"``, or several with commas, instead of a URL.
    username, password : str, optional
        With a host.

    Raises
    ------
    StoreOptionError
        No URL, or none that could be one; no database, or two. No message shows what might be a password.
    """
    if (url is None) == (host is None):
        raise StoreOptionError(f"a MongoDB store is named by a URL ({_EXAMPLE}), or by host= and database=")
    if url is None:
        user = quote(username, safe="") if username else ""
        user += f":{quote(password, safe='')}" if username and password else ""
        url = f"mongodb://{user}{'@' if user else ''}{host}/"
    elif username or password:
        raise StoreOptionError(f"credentials belong into the URL where there is one: {_EXAMPLE}")
    return _parsed(url, database)


def _parsed(url: str, database: str | None) -> Address:
    found = _URL.fullmatch(url)
    scheme = found and _DRIVERS.get(found[1].lower())
    if not found or not scheme:
        raise StoreOptionError(f"a MongoDB store is named by a URL such as {_EXAMPLE}")
    authority, path, options = found[2], found[3] or "", found[4] or ""
    user, _, servers = authority.rpartition("@")
    hosts = [_HOST.fullmatch(server) for server in servers.split(",")]
    # A sign that was not percent-encoded ends the list of hosts too early: what follows may be half a password.
    if not all(hosts) or "@" in path or "@" in user or (user and "@" in options):
        raise StoreOptionError(
            f"the list of hosts in the MongoDB URL cannot be read: write {_EXAMPLE}, with user and password "
            f"percent-encoded (urllib.parse.quote_plus)"
        )
    named = unquote(path)
    if named and database is not None and database != named:
        raise StoreOptionError(f"the URL names the database {named!r}, and database={database!r} another: which one?")
    name = named or database or ""
    if not name:
        raise StoreOptionError(
            f"the MongoDB URL names no database: write {_EXAMPLE}, or pass database= (zarr 2's MongoDBStore had "
            f"'mongodb_zarr', which layout='zarr-v2' takes by default)"
        )
    if len(name.encode(errors="replace")) > 63 or set(name) & set('/\\. "$*<>:|?\0'):  # noqa: PLR2004  # MongoDB's limit
        raise StoreOptionError(f"{name!r} names no MongoDB database: write {_EXAMPLE}, or pass database=")
    port = "" if scheme == "mongodb+srv" else ":27017"
    canonical = sorted(host[0].lower() + ("" if host[1] else port) for host in hosts if host)
    rest = f"?{options}" if options else ""
    return Address(
        url=f"{scheme}://{authority}/{path}{rest}",
        hosts=f"{scheme}://{','.join(canonical)}",
        database=name,
        options=frozenset(option.lower() for option, _ in parse_qsl(options, keep_blank_values=True)),
        secrets=_secrets(user, options),
    )


def _secrets(user: str, options: str) -> tuple[str, ...]:
    """Return the password, as it is written and as it is meant, and all that an option may hide."""
    password = user.partition(":")[2]
    hidden = [value for name, value in parse_qsl(options) if name.lower() in _SECRET_OPTIONS]
    return tuple({text for part in (password, *hidden) for text in (part, unquote(part)) if text})


_SECRET_OPTIONS = {"authmechanismproperties", "tlscertificatekeyfilepassword", "sslpemkeypassword", "proxypassword"}


def place(where: Address, collection: str, array_id: str, *, layout: str = "gridfs") -> str:
    """Return the identity of one array's data: servers, database, bucket or collection, and array."""
    parts = [where.hosts, where.database, quote(collection, safe=".-_~")]
    named = "/".join([*parts, array_id] if array_id else parts)
    return named if layout == "gridfs" else f"{named}?layout={layout}"


def checked_bucket(bucket: Any) -> str:  # noqa: ANN401  # whatever was passed is checked
    """Return the name of a bucket, or of a collection; `StoreOptionError` where MongoDB takes none such."""
    if not isinstance(bucket, str) or not bucket or set(bucket) & {"$", "\0"} or bucket.startswith("system."):
        raise StoreOptionError(f"a bucket is a text without '$' that does not begin with 'system.', not {bucket!r}")
    return bucket
