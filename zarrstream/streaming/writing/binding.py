"""What a checkpoint is bound to: one array at one place, its grid and codecs, and a token, each by value."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import hashlib
import json
import os
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from zarrstream.errors import CheckpointMismatchError
from zarrstream.identity import identity_of, legacy_place
from zarrstream.streaming.writing.record import FORMAT, MAGIC

if TYPE_CHECKING:
    from zarrstream.streaming.codecs.array import ArrayCodec

#: Whose `repr` is their value, in every process.
_EXACT = (
    complex,
    dt.date,
    dt.time,
    dt.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
)


def token_value(token: Any) -> Any:  # noqa: PLR0911  # one answer for each kind
    """Write a token as JSON can hold it, by value.

    Raises
    ------
    TypeError
        If it holds something that has no value of its own: a set, an object, a function.
    """
    if isinstance(token, enum.Enum):
        return {"enum": f"{type(token).__module__}.{type(token).__qualname__}.{token.name}"}
    if token is None or isinstance(token, (bool, int, float, str)):
        return getattr(token, "item", lambda: token)()  # numpy has floats and strings that are Python's, too
    if isinstance(token, (list, tuple)):
        return [token_value(part) for part in token]
    if isinstance(token, dict) and all(key is None or isinstance(key, (bool, int, float, str)) for key in token):
        return {key: token_value(value) for key, value in token.items()}
    if isinstance(token, (np.ndarray, np.generic)) and not token.dtype.hasobject and not np.ma.isMaskedArray(token):
        digest = hashlib.sha256(np.ascontiguousarray(token).tobytes()).hexdigest()
        return {"array": digest, "dtype": np.lib.format.dtype_to_descr(token.dtype), "shape": list(token.shape)}
    if isinstance(token, (bytes, bytearray, memoryview)):
        return {"bytes": hashlib.sha256(token).hexdigest()}
    if isinstance(token, os.PathLike):
        return {"path": os.fspath(token)}
    if isinstance(token, _EXACT):
        return {type(token).__qualname__: repr(token)}
    raise TypeError(
        f"a token is compared by value in other processes, and a {type(token).__name__} has none that is sure: write "
        "sorted(…) for a set, vars(…) or dataclasses.asdict(…) for an object, a name and a version for a function"
    )


def binding_of(codec: ArrayCodec, token: Any, place: str | None) -> dict[str, Any]:
    """Return what a checkpoint of an array is bound to.

    Raises
    ------
    CheckpointMismatchError
        If the store's place cannot be known, and no other name is given.
    """
    store, path = codec.array.store, codec.array.store_path.path
    if place is not None:
        root = place
    elif (identity := identity_of(store)) is not None:
        root, path = identity.root, identity.name(path)
    else:
        raise CheckpointMismatchError(
            f"{store!r} has no place that another process would know again, so a checkpoint of it could not be "
            "believed: open it with zarrstream.open_store, give its class a `place` that is the same in every process, "
            "or name it: Checkpoint(path, place='…')"
        )
    return {MAGIC: FORMAT, "place": root, "path": path, **codec.describe(), "token": token_value(token)}


def check(found: dict[str, Any], binding: dict[str, Any], codec: ArrayCodec, token: Any, path: str) -> None:
    """Compare what a file is bound to with an array; its shape may have changed.

    Raises
    ------
    CheckpointMismatchError
        If they are not the same.
    """
    wanted = dict(binding)
    own = {MAGIC, "place", "path", "token"}
    if found[MAGIC] == 1:
        wanted.update(_in_format_1(found, binding, codec, token))
    document = {name: value for name, value in found.items() if name not in own}
    if not _same(document, {name: value for name, value in wanted.items() if name not in own}):
        document = codec.rendered(document)  # another version of zarr may write the same otherwise
    found = {**document, **{name: found.get(name) for name in own}}
    differing = [name for name in sorted({*found, *wanted} - {MAGIC}) if not _same_part(name, found, wanted)]
    if differing:
        name = differing[0]
        raise CheckpointMismatchError(
            f"{path!r} belongs to something else: {', '.join(differing)} {'differ' if differing[1:] else 'differs'} "
            f"({name} was {found.get(name)!r} and is {wanted.get(name)!r}). Use another checkpoint, or remove this one "
            "to write every chunk anew"
        )


def _in_format_1(found: dict[str, Any], binding: dict[str, Any], codec: ArrayCodec, token: Any) -> dict[str, Any]:
    """Return the parts of a binding as the first format has them, where that was enough to tell places apart."""
    wanted: dict[str, Any] = {}
    store, path = codec.array.store, codec.array.store_path.path
    place = legacy_place(store)
    if place is not None:
        joined, there = f"{found.get('place')}/{found.get('path')}".strip("/"), f"{place}/{path}".strip("/")
        if joined == there:  # a folder and one in it: the same array
            wanted.update(place=found.get("place"), path=found.get("path"))
        else:
            wanted.update(place=place, path=path)
    if not _has_array(token):
        wanted["token"] = json.loads(json.dumps(token, default=repr))
    return wanted if place is not None else {**wanted, "place": binding["place"], "path": binding["path"]}


def _has_array(token: Any) -> bool:
    if isinstance(token, dict):
        return any(map(_has_array, token.values()))
    return any(map(_has_array, token)) if isinstance(token, (list, tuple)) else isinstance(token, np.ndarray)


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _same_part(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if name == "shape":  # it may grow and shrink
        return len(found.get("shape", ())) == len(wanted["shape"])
    return _same(found.get(name), wanted.get(name))
