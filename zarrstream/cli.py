"""The command line: parses, calls and shows. What it does is in the modules that it calls."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zarrstream.demo import DemoReport, Show, Step


def main() -> None:
    """Run the command line: the console script ``zarrstream`` calls this."""
    from zarrstream.errors import ZarrStreamError

    try:
        app = _commands()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in {"rich", "typer"}:
            raise
        sys.exit(f"zarrstream's command line needs {missing}: pip install 'zarrstream[cli]'")
    try:
        app()
    except ZarrStreamError as error:
        sys.exit(f"zarrstream: {error}")
    except OSError as error:
        # The disk under the output is full, or a file that was asked for cannot be written.
        # What is still in the buffer has nowhere to go: Python would try it at its end, and say so once more.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(f"zarrstream: {error.strerror}{f': {error.filename!r}' if error.filename else ''}")


def _commands() -> Callable[[], object]:
    import rich.progress  # noqa: F401 - if it is missing, that is said here and not half-way through a command
    import typer

    app = typer.Typer(name="zarrstream", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    # As defaults, not in the annotations: typer evaluates these, and could not see what is imported here.
    version = typer.Option(False, "--version", is_eager=True, callback=_version, help="Show it.")  # noqa: FBT003 - typer's
    store = typer.Option(None, metavar="URL", show_default="SQLite in a temporary folder", help="Where to write; kept.")
    size = typer.Option(256, min=1, metavar="MB", help="The array's size.")
    trace = typer.Option(False, "--trace", help="Show a timeline of the run, and what took how long.")  # noqa: FBT003 - typer's
    file = typer.Option(None, "--trace-file", metavar="FILE", help="Keep the trace, a span a line. Adds to --trace.")
    image = typer.Option(None, "--trace-picture", metavar="FILE", help="Draw the timeline, as SVG. Adds to --trace.")

    @app.callback(help="Stores, streams and resumable writes for zarr.")
    def _root(version: bool = version) -> None:  # noqa: FBT001 - a flag of the command line is named when it is given
        pass

    @app.command("demo", help="Stream a field in, be killed, resume, stream it back, and check every value.")
    def _demo_command(
        store: str | None = store,
        size: int = size,
        trace: bool = trace,  # noqa: FBT001 - as above
        file: str | None = file,
        image: str | None = image,
    ) -> None:
        with _traced(file, image, wanted=trace or file is not None or image is not None) as path:
            _demo(store, size, path)

    @app.command("stores", help="List the known stores, and what installs those that are not there.")
    def _stores_command() -> None:
        _stores()

    return app


def _version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if asked:
        _print(f"zarrstream {importlib.metadata.version('zarrstream')}")
        raise SystemExit


def _stores() -> None:
    from zarrstream.stores.opening import list_stores

    for store in list_stores():
        missing = f"pip install 'zarrstream[{store.extra}]'" if store.extra else "not installed"
        _print(f"{store.scheme:<12}{'installed' if store.installed else missing:<42}{store.title}")


@contextlib.contextmanager
def _traced(file: str | None, image: str | None, *, wanted: bool) -> Iterator[Path | None]:
    """Yield where a command writes its trace, and show at the end what is in there."""
    if not wanted:
        yield None
        return
    from zarrstream.timeline import describe, load
    from zarrstream.timeline_picture import picture

    with tempfile.TemporaryDirectory(prefix="zarrstream-trace-") as folder:
        path = Path(file or Path(folder) / "trace.jsonl")
        # Opened before the run, so that a place that takes no file is told before the work is done, and not after it.
        path.write_bytes(b"")
        if image is not None:
            with Path(image).open("a"):
                pass
        yield path
        lines = load(path)
    _print(f"\n{describe(lines)}")
    if image is not None:
        Path(image).write_text(picture(lines))


def _demo(store: str | None, megabytes: int, trace: Path | None) -> None:
    from zarrstream.demo import run_demo

    with _shown() as show:
        report = run_demo(store, megabytes=megabytes, show=show, trace=trace)
    _print(_describe(report, kept=store is not None))
    if report.wrong:
        sys.exit(1)


@contextlib.contextmanager
def _shown() -> Iterator[Show]:
    """Yield what shows the steps: bars on a terminal, a line for every quarter in a pipe."""
    if not sys.stdout.isatty():
        yield _show_line
        return
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    with Progress(*Progress.get_default_columns()[:3]) as bars:

        def show(step: Step) -> None:
            if step.name not in tasks:
                tasks[step.name] = bars.add_task(f"{step.name:<10}", total=step.total)
            bars.update(tasks[step.name], completed=step.done)
            if step.note:
                bars.print(step.note)

        yield show


def _show_line(step: Step) -> None:
    if step.note:
        _print(step.note)
    elif step.done * 4 // step.total > (step.done - 1) * 4 // step.total:
        _print(f"{step.name:<10}{step.done:>6} of {step.total} chunks")


def _describe(report: DemoReport, *, kept: bool) -> str:
    lines = {
        "store": f"{report.store} ({'kept' if kept else 'removed'})",
        "array": f"{report.chunks} chunks, {report.nbytes / 1e6:.0f} MB",
        "in": _speed(report, report.seconds_in, report.peak_in),
        "out": _speed(report, report.seconds_out, report.peak_out),
        "killed": f"once, after {report.killed_at} chunks; chunks written twice: {report.rewritten}",
        "values": "all equal to what was written" if not report.wrong else f"{report.wrong} ARE WRONG",
    }
    return "\n".join(f"{name:<10}{value}" for name, value in lines.items())


def _speed(report: DemoReport, seconds: float, peak: int) -> str:
    rate, each = report.nbytes / 1e6 / seconds, seconds / report.chunks * 1000
    return f"{rate:.0f} MB/s, {each:.2f} ms per chunk, peak memory {peak / 1e6:.0f} MB"


def _print(text: str) -> None:
    # A pipe is read as it is written, by whoever watches a long job through it.
    print(text, flush=True)  # noqa: T201 - showing is what this file is for
