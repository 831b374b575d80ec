"""The two pictures of docs/benchmarks.md, drawn from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.required import REQUIRED
from tests.benchmarks.ways import OURS
from tests.benchmarks.works import CODECS, KIB

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

#: Way -> its colour, in both pictures; others are grey.
COLOURS = {
    OURS: "#c2410c",
    "naive limit": "#1e293b",
    "TensorStore": "#2563eb",
    "zarr loop": "#15803d",
    "zarr whole": "#65a30d",
    "zarrs loop": "#7c3aed",
    "dask threads": "#ca8a04",
}
OTHERS = "#94a3b8"
COLUMNS = 2
#: Letters stay letters, which keeps the files small; the salt and the missing date keep them equal for equal figures.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zarrstream",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "ytick.major.size": 0,
    "xtick.minor.visible": False,
}


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Draw what the rows allow: bars of the required rows, and throughput against chunk size."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        if asked := [row for row in rows if row["name"] in REQUIRED]:
            save(draw_bars(asked), folder / "peers.svg")
        if plain := [
            row for row in rows if row["place"] == "local" and row["per_shard"] == 1 and row["verb"] != "slice"
        ]:
            save(draw_sizes(plain), folder / "chunk_size.svg")


def save(figure: Figure, path: Path) -> None:
    """Write a picture that is the same for the same figures."""
    figure.savefig(path, metadata={"Date": None})


def draw_bars(rows: list[dict[str, Any]]) -> Figure:
    """Draw a panel per row, and in it a bar per way."""
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(9, 2.2 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for panel, row in zip(panels, rows, strict=False):
        names = list(reversed(row["ways"]))
        speeds = [row["ways"][name]["per_second"] for name in names]
        bars = panel.barh(names, speeds, color=[COLOURS.get(name, OTHERS) for name in names])
        panel.bar_label(bars, labels=[f"{speed:,.0f}" for speed in speeds], padding=2)
        panel.set_title(f"{row['name']}, {row['unit']}/s", loc="left")
        panel.margins(x=0.2)
        panel.spines["bottom"].set_visible(False)
        panel.xaxis.set_visible(False)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    return figure


def draw_sizes(rows: list[dict[str, Any]]) -> Figure:
    """Draw a panel per codec and direction, and in it a line per way."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    panels = figure.subplots(2, len(CODECS), sharex=True, sharey="row")
    for verb, line in zip(("read", "write"), panels, strict=True):
        for codec, panel in zip(CODECS, line, strict=True):
            draw_lines(panel, [row for row in rows if (row["verb"], row["codec"]) == (verb, codec)])
            panel.set_title(f"{verb}, {codec}", loc="left")
        line[0].set_ylabel("MB/s, decoded")
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), frameon=False
    )
    return figure


def draw_lines(panel: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw each way's megabytes per second against the size of a chunk."""
    sizes = [row["nbytes"] for row in rows]
    for name, colour in COLOURS.items():
        points = [(row["nbytes"], row["ways"][name]) for row in rows if name in row["ways"]]
        speeds = [nbytes * way["per_second"] / 1e6 for nbytes, way in points]
        panel.plot([nbytes for nbytes, _ in points], speeds, marker="o", markersize=3, color=colour, label=name)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.minorticks_off()
    panel.set_xticks(sizes, [f"{size // KIB} KiB" if size < KIB**2 else f"{size // KIB**2} MiB" for size in sizes])
