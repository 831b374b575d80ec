"""A handler for a broad class of errors raises again, or says in a comment what it swallows."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "zarrstream"
#: Classes that hold errors which nobody thought of when the handler was written.
BROAD = {"BaseException", "Exception", "OSError", "StoreError", "ZarrStreamError"}


def broad(expression: ast.expr | None) -> bool:
    """Return whether an ``except`` clause or the arguments of ``suppress`` name a broad class."""
    if expression is None:
        return True
    names = expression.elts if isinstance(expression, ast.Tuple) else [expression]
    return any(ast.unparse(name).rpartition(".")[2] in BROAD for name in names)


def swallowing(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Yield the first and last line of each handler that takes a broad class and raises nothing again."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and broad(node.type):
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))  # at least what is not meant
            if not raises and not ast.unparse(node.body[-1]).startswith("sys.exit("):
                yield node.lineno, node.end_lineno or node.lineno
        elif isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            if any(ast.unparse(call.func).endswith("suppress") and any(map(broad, call.args)) for call in calls):
                yield node.lineno, node.body[-1].end_lineno or node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_a_broad_handler_swallows_is_named(path: Path) -> None:
    """A fallback that is meant for one error, and taken for all, hides the others: each says what it is for."""
    text = path.read_text()
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    silent = [
        first
        for first, last in swallowing(ast.parse(text))
        # A comment on the line before counts: it stands above the clause that it explains.
        if not comments & set(range(first - 1, last + 1))
    ]
    assert not silent, f"say what is swallowed at lines {silent}"
