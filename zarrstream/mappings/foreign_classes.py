"""Whose method a foreign mapping's verb is, and whether its pickle is a copy: read off its class."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

_ABSTRACT = frozenset({Mapping, MutableMapping, object})
# Classes that pickle to their place, by package and name: not by a `__reduce__` of their own, or with keys that are
# dear to list.
_SHARED = frozenset({("diskcache", "Index"), ("fsspec", "FSMap")})


def knows(mapping: object, verb: str, *parts: str) -> bool:
    """Return whether the mapping's own ``verb`` is to be called, and not its ``parts`` in turn.

    Parameters
    ----------
    mapping : object
        The mapping.
    verb : str
        A method that could be made of others, such as ``pop``.
    *parts : str
        These others, such as ``__getitem__`` and ``__delitem__``.

    Notes
    -----
    A subclass that overrides a part, so that it encrypts or counts, has not told the verb that it inherits:
    ``dict.pop`` would pass the part by. One that overrides the verb, or both, means the verb.
    """
    own = _depth(type(mapping), verb)
    found = [_depth(type(mapping), part) for part in parts]
    return own is not None and all(depth is None or own <= depth for depth in found)


def makes_missing(mapping: object) -> bool:
    """Return whether ``[]`` may answer for an absent key, and store what it answers."""
    return hasattr(type(mapping), "__missing__")


def bound(mapping: object, name: str) -> Any:  # noqa: ANN401  # a method, or None
    """Return a method that the mapping's class has; None where it has none, whatever the mapping's items are called."""
    return getattr(mapping, name) if callable(getattr(type(mapping), name, None)) else None


def is_copied(mapping: MutableMapping[str, Any], pickled: bytes) -> bool:
    """Return whether a pickle of the mapping holds its content, or must be expected to.

    Only a class can know that its objects share a place. One that does has a way of its own to be reduced, and its
    keys are not in the pickle.
    """
    bases = type(mapping).__mro__
    if any((base.__module__.partition(".")[0], base.__name__) in _SHARED for base in bases):
        return False
    if isinstance(mapping, dict) or not any(
        {"__reduce__", "__reduce_ex__"} & vars(base).keys() for base in bases if base is not object
    ):
        return True
    key = next(iter(mapping), None)
    return isinstance(key, str) and _pickled(key) in pickled


def _pickled(text: str) -> bytes:
    """Return a text as it stands in a pickle."""
    content = text.encode(errors="surrogatepass")
    if len(content) < 1 << 8:
        return b"\x8c" + bytes([len(content)]) + content
    return b"X" + len(content).to_bytes(4, "little") + content


def _depth(kind: type, name: str) -> int | None:
    """Return how far up its class a mapping finds a method; None where there is none, or an abstract class's."""
    for depth, base in enumerate(kind.__mro__):
        if name in vars(base):
            return None if base in _ABSTRACT else depth
    return None
