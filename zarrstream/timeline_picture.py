"""A run's timeline as a picture: SVG, a bar for each stretch, written by ourselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarrstream.timeline import STAGES, Stretch, stretches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarrstream.timeline import Line

_WIDTH, _LEFT, _BAR, _GAP = 960, 140, 8, 2
_COLOURS = dict(zip(STAGES, ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#bbbbbb", "#ee6677"), strict=True))


def picture(lines: list[Line]) -> str:
    """Return a picture of a run: time from left to right, and for each stage as many rows as went on at once.

    Parameters
    ----------
    lines : list of dict
        What `zarrstream.timeline.load` returned.

    Returns
    -------
    str
        A document in SVG.
    """
    parts = list(stretches(lines))
    begin = min((part.start for part in parts), default=0.0)
    scale = (_WIDTH - _LEFT - 20) / max((part.stop - begin for part in parts), default=1.0)
    shapes, top = [], 30
    for stage in STAGES:
        rows = list(_rows([part for part in parts if part.stage == stage]))
        if not rows:
            continue
        shapes.append(f'<text x="{_LEFT - 10}" y="{top + _BAR}" text-anchor="end">{stage}</text>')
        for row in rows:
            shapes += [_bar(part, begin, scale, top) for part in row]
            top += _BAR + _GAP
        top += 10
    axis = "".join(_ticks(max((part.stop - begin for part in parts), default=0.0), scale, top))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 30}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(shapes) + f"\n{axis}</svg>\n"
    )


def _rows(parts: list[Stretch]) -> Iterator[list[Stretch]]:
    """Yield rows of stretches that do not overlap; each goes into the first row that has room."""
    rows: list[list[Stretch]] = []
    for part in sorted(parts, key=lambda part: part.start):
        free = next((row for row in rows if row[-1].stop <= part.start), None)
        if free is None:
            rows.append([part])
        else:
            free.append(part)
    yield from rows


def _bar(part: Stretch, begin: float, scale: float, top: int) -> str:
    x, width = _LEFT + (part.start - begin) * scale, max(0.3, part.seconds * scale)
    return f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[part.stage]}"/>'


def _ticks(seconds: float, scale: float, top: int) -> Iterator[str]:
    for tenth in range(0, 11, 2):
        at = seconds * tenth / 10
        yield f'<text x="{_LEFT + at * scale:.1f}" y="{top + 15}" text-anchor="middle">{at:.2f} s</text>\n'
