"""The tables of docs/telemetry.md, made from `zarrstream.signals`; ``python -m tests.sight.tables`` writes them."""

from __future__ import annotations

import re
from pathlib import Path

from zarrstream import signals

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def table(head: str, rows: list[str]) -> str:
    """Return a table in Markdown."""
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", "|" + "---|" * columns, *(f"| {row} |" for row in rows)])


def names(attributes: tuple[str, ...]) -> str:
    """Return names of attributes, as code."""
    return ", ".join(f"`{name}`" for name in attributes)


def tables() -> dict[str, str]:
    """Return each table by its name in the page."""
    metrics = [
        " | ".join([f"`{metric.name}`", metric.instrument, metric.unit, metric.brief, names(metric.attributes)])
        for metric in signals.METRICS
    ]
    kinds = [f"`{kind.name}` | {kind.brief} | {names(kind.attributes)}" for kind in signals.SPANS]
    attributes = [
        f"`{attribute.name}` | {attribute.type} | {attribute.brief}"
        + (f": {names(attribute.values)}" if attribute.values else "")
        for attribute in signals.ATTRIBUTES
    ]
    return {
        "spans": table("span | what it is | attributes", kinds),
        "metrics": table("metric | instrument | unit | what it is | attributes", metrics),
        "attributes": table("attribute | type | what it says", attributes),
    }


def written(text: str) -> str:
    """Return a page with its tables as they have to be."""
    for name, made in tables().items():
        mark = re.compile(rf"(<!-- made: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text = mark.sub(lambda found, made=made: found[1] + made + found[2], text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
