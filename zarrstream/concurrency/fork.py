"""The one table of fork hooks, in a chosen order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class _Hooks:
    order: int
    before: Callable[[], object] | None
    parent: Callable[[], object] | None
    child: Callable[[], object] | None


_table: list[_Hooks] = []


def on_fork(
    order: int,
    *,
    before: Callable[[], object] | None = None,
    parent: Callable[[], object] | None = None,
    child: Callable[[], object] | None = None,
) -> None:
    """Call functions around every fork of this process, for as long as it lives.

    Parameters
    ----------
    order : int
        The place in the table. ``before`` is called from the lowest to the highest, so that locks are always taken in
        one order; ``parent`` and ``child`` from the highest to the lowest.
    before, parent, child : callable, optional
        Called before the fork, and after it in the parent and in the child. None of them may raise.

    Notes
    -----
    Windows has no fork: the table is kept and never used there.
    """
    _table.append(_Hooks(order, before, parent, child))
    _table.sort(key=lambda hooks: hooks.order)


def _before() -> None:
    for hooks in _table:
        if hooks.before is not None:
            hooks.before()


def _in_parent() -> None:
    for hooks in reversed(_table):
        if hooks.parent is not None:
            hooks.parent()


def _in_child() -> None:
    for hooks in reversed(_table):
        if hooks.child is not None:
            hooks.child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
