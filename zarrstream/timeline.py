"""What a run's spans say: a timeline in text, percentiles, slowest chunks. It reads what `recorder.py` wrote."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zarrstream import signals

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

Line: TypeAlias = dict[str, Any]

#: What a chunk's span is made of, from its start and towards its end.
FIRST = {signals.CHUNK_READ: "fetch", signals.CHUNK_WRITE: "encode"}
SECOND = {signals.CHUNK_READ: "decode", signals.CHUNK_WRITE: "store"}
STAGES = ("fetch", "decode", "encode", "store", "the caller waits", "the stream waits")
_SHADES = " .:-=+*#"
_SLOWEST = 5


@dataclass(frozen=True)
class Stretch:
    """A stretch of time in which something was done.

    Parameters
    ----------
    stage : str
        One of `STAGES`.
    start, stop : float
        Seconds since the epoch.
    """

    stage: str
    start: float
    stop: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.stop - self.start


def load(path: str | os.PathLike[str]) -> list[Line]:
    """Return a file's lines; a last one that a kill has torn is left out."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def stretches(lines: Iterable[Line]) -> Iterator[Stretch]:
    """Yield what was done when: of each chunk its two stages, and each wait."""
    for line in lines:
        start, stop, about = line["start"], line["start"] + line["seconds"], line["attributes"]
        if line["name"] == signals.WAIT:
            yield Stretch(f"the {about['zarrstream.stream.waiting']} waits", start, stop)
        for stages, is_first in ((FIRST, True), (SECOND, False)):
            stage = stages.get(line["name"])
            seconds = about.get(f"zarrstream.chunk.{stage}.duration")
            if seconds is not None:
                yield (
                    Stretch(stage or "", start, start + seconds)
                    if is_first
                    else Stretch(stage or "", stop - seconds, stop)
                )


def percentile(values: list[float], share: float) -> float:
    """Return the value that a share of them does not exceed (nearest rank); 0 where there are none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


def describe(lines: list[Line], *, width: int = 60) -> str:
    """Return a run's timeline and summary as text.

    Parameters
    ----------
    lines : list of dict
        What `load` returned.
    width : int
        Columns of the timeline.
    """
    parts = list(stretches(lines))
    if not parts:
        return "the trace has no chunk"
    return "\n".join([*_timeline(parts, width), "", *_percentiles(parts), "", *_slowest(lines), *_totals(lines)])


def _timeline(parts: list[Stretch], width: int) -> Iterator[str]:
    """Yield a line for each stage: the darker a column, the more of it was going on, up to two at once."""
    begin, end = min(part.start for part in parts), max(part.stop for part in parts)
    step = (end - begin) / width or 1.0
    yield f"{'':18}0{f'{end - begin:.3f} s':>{width}}"
    for stage in STAGES:
        columns = [0.0] * width
        for part in parts:
            if part.stage == stage:
                for column in range(int((part.start - begin) / step), min(width, int((part.stop - begin) / step) + 1)):
                    left = begin + column * step
                    columns[column] += max(0.0, min(part.stop, left + step) - max(part.start, left))
        if any(columns):
            shades = (_SHADES[min(len(_SHADES) - 1, math.ceil(spent / step * 3.5 - 1e-6))] for spent in columns)
            yield f"{stage:17}|{''.join(shades)}|"


def _percentiles(parts: list[Stretch]) -> Iterator[str]:
    yield f"{'milliseconds':18}{'count':>8}{'p50':>10}{'p95':>10}{'p99':>10}{'sum':>12}"
    for stage in STAGES:
        spent = [part.seconds * 1000 for part in parts if part.stage == stage]
        if spent:
            shares = "".join(f"{percentile(spent, share):10.3f}" for share in (0.5, 0.95, 0.99))
            yield f"{stage:18}{len(spent):8}{shares}{sum(spent):12.1f}"


def _slowest(lines: list[Line]) -> Iterator[str]:
    chunks = [line for line in lines if line["name"] in FIRST]
    yield "slowest chunks"
    for line in sorted(chunks, key=lambda line: -line["seconds"])[:_SLOWEST]:
        index = tuple(line["attributes"]["zarrstream.chunk.index"])
        way = line["name"].rpartition(".")[2]
        yield f"  {way:6}{line['seconds'] * 1000:10.3f} ms  {index}  {line['attributes']['zarrstream.chunk.key']}"


def _totals(lines: list[Line]) -> Iterator[str]:
    chunks = [line for line in lines if line["name"] in FIRST]
    retries = sum(line["attributes"].get("zarrstream.attempts", 1) - 1 for line in chunks)
    failed = sum(line["failed"] for line in chunks)
    yield f"chunks {len(chunks)}, failed {failed}, retries {retries}"
