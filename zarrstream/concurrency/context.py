"""Context variables that are given back, also by a coroutine that garbage collection ends somewhere else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import ContextVar, Token

T = TypeVar("T")


@contextmanager
def bound(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable a value for a while.

    Parameters
    ----------
    variable : ContextVar
        The variable.
    value : object
        Its value within.
    """
    token = variable.set(value)
    try:
        yield
    finally:
        give_back(variable, token)


def give_back(variable: ContextVar[T], token: Token[T]) -> bool:
    """Reset a context variable; return False where this is another context than the one in which it was set.

    A coroutine that is collected as garbage ends in the context of whoever caused the collection. The variable there is
    not its own, and an exception would be one that nobody can catch: hundreds of them at the end of a program have
    taken the interpreter down.
    """
    try:
        variable.reset(token)
    except ValueError:  # set in another context, which nobody will ask any more
        return False
    return True
