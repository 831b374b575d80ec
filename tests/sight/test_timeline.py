"""`--trace` of the command line: what it keeps, what it shows, and that its numbers are those of the spans."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from tests.optional import require
from tests.sight.providers import give_back
from tests.streaming.spies import Spy, filled
from zarrstream import recorder, stream_chunks
from zarrstream.recorder import recording
from zarrstream.timeline import describe, load, percentile, stretches
from zarrstream.timeline_picture import picture

if TYPE_CHECKING:
    from pathlib import Path

READ = {"zarrstream.chunk.fetch.duration": 0.1, "zarrstream.chunk.decode.duration": 0.2, "zarrstream.chunk.key": "c/0"}


def line(name: str, start: float, seconds: float, **about: Any) -> dict[str, Any]:
    """Return a line of a trace."""
    return {"name": name, "start": start, "seconds": seconds, "failed": False, "attributes": about}


LINES = [
    line("zarrstream.chunk.read", 10.0, 0.4, **READ, **{"zarrstream.chunk.index": [0]}),
    line("zarrstream.chunk.read", 10.2, 0.6, **READ, **{"zarrstream.chunk.index": [1], "zarrstream.attempts": 3}),
    line("zarrstream.stream.wait", 10.0, 0.3, **{"zarrstream.stream.waiting": "caller"}),
    line("zarrstream.stream", 10.0, 1.0),
]


def run(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    program = f"{before}; from zarrstream.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True)


def test_what_ends_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each span is a line when it ends, so that a killed process has left it; what ends afterwards is not."""
    require("opentelemetry.sdk")
    give_back(monkeypatch)
    path = tmp_path / "trace.jsonl"
    array, _ = filled(Spy())
    with recording(path, "run"):
        items = iter(stream_chunks(array))
        next(items)
        assert {found["name"] for found in load(path)} >= {"zarrstream.chunk.read"}
        list(items)
    before = path.read_bytes()
    list(stream_chunks(array))
    assert path.read_bytes() == before
    lines = load(path)
    [run_span] = [found for found in lines if found["name"] == "run"]
    [stream] = [found for found in lines if found["name"] == "zarrstream.stream"]
    assert stream["parent"] == run_span["id"]
    assert {found["trace"] for found in lines} == {run_span["trace"]}
    assert sum(found["name"] == "zarrstream.chunk.read" for found in lines) == 12
    with recording(path):  # a second one adds to the same provider, and the same file
        list(stream_chunks(array))
    assert sum(found["name"] == "zarrstream.chunk.read" for found in load(path)) == 24


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves the rest readable."""
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(LINES[0]) + '\n{"name": "zarr')
    assert load(path) == LINES[:1]


def test_percentiles_are_of_the_nearest_rank() -> None:
    """p50, p95 and p99 are values that were there."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert percentile([3.0], 0.99) == 3
    assert percentile([], 0.5) == 0


def test_a_chunk_is_its_two_stages() -> None:
    """Fetching begins with the span and decoding ends with it."""
    found = {(part.stage, round(part.start, 3), round(part.stop, 3)) for part in stretches(LINES)}
    assert found == {
        ("fetch", 10.0, 10.1),
        ("decode", 10.2, 10.4),
        ("fetch", 10.2, 10.3),
        ("decode", 10.6, 10.8),
        ("the caller waits", 10.0, 10.3),
    }


def test_the_summary_adds_up() -> None:
    """Counts, percentiles, the slowest chunk first, retries; and a timeline that is dark where something went on."""
    text = describe(LINES, width=8)
    assert re.search(r"^fetch +2 +100\.000 +100\.000 +100\.000 +200\.0$", text, re.MULTILINE)
    assert re.search(r"^the caller waits +1 +300\.000", text, re.MULTILINE)
    slowest = re.findall(r"^  read +(\S+) ms  (\S+)", text, re.MULTILINE)
    assert slowest == [("600.000", "(1,)"), ("400.000", "(0,)")]
    assert text.endswith("chunks 2, failed 0, retries 2")
    shades = dict(re.findall(r"^([a-z ]+?) *\|(.{8})\|$", text, re.MULTILINE))
    assert shades.keys() == {"fetch", "decode", "the caller waits"}
    assert [index for index, shade in enumerate(shades["decode"]) if shade != " "] == [2, 3, 6, 7]
    assert describe(LINES[3:]) == "the trace has no chunk"


def test_the_picture_has_a_bar_for_each_stretch() -> None:
    """What overlaps lies in rows of its own; an empty trace is an empty picture."""
    bars = [shape.attrib for shape in ET.fromstring(picture(LINES)) if shape.tag.endswith("rect")][1:]  # noqa: S314  # our own
    assert len(bars) == len(list(stretches(LINES)))
    wide = max(bars, key=lambda bar: float(bar["width"]))
    assert float(wide["width"]) == pytest.approx(300, abs=1)
    assert ET.fromstring(picture([])).tag.endswith("svg")  # noqa: S314  # our own


@pytest.mark.slow
def test_a_traced_demo_shows_and_keeps_its_run(tmp_path: Path) -> None:
    """Two writers, one of them killed, and the reader are one trace; the summary is of the file that is kept."""
    require("typer")
    require("opentelemetry.sdk")
    file, image = tmp_path / "out.jsonl", tmp_path / "out.svg"
    result = run("demo", "--size", "30", "--trace-file", str(file), "--trace-picture", str(image))
    assert result.returncode == 0, result.stderr
    assert "all equal to what was written" in result.stdout
    lines = load(file)
    assert result.stdout.endswith(f"\n{describe(lines)}\n")
    assert len({found["process"] for found in lines}) == 3
    assert len({found["trace"] for found in lines}) == 1
    ways = [found["name"] for found in lines]
    assert ways.count("zarrstream.chunk.read") == 32
    assert ways.count("zarrstream.chunk.write") >= 32
    assert "zarrstream demo" in ways
    assert ET.parse(image).getroot().tag.endswith("svg")  # noqa: S314  # our own


def test_without_the_sdk_the_extra_is_named() -> None:
    """`--trace` alone needs OpenTelemetry's SDK, and says what brings it."""
    require("typer")
    result = run("demo", "--trace", before="import sys; sys.modules['opentelemetry.sdk.trace'] = None")
    assert result.returncode == 1
    assert result.stderr.endswith("pip install 'zarrstream[otel]'\n")
    assert "Traceback" not in result.stderr


def test_without_a_trace_no_sdk_is_loaded() -> None:
    """A command that is not traced pays nothing for it."""
    program = "import sys; from zarrstream.demo import run_demo; run_demo(megabytes=4); "
    program += "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_trace_is_of_streams_of_any_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of one's own may record as the command line does, and describe what came."""
    require("opentelemetry.sdk")
    give_back(monkeypatch)
    array = zarr.create_array({}, shape=(8,), chunks=(2,), dtype="i4", fill_value=0)
    with recording(tmp_path / "x"):
        list(stream_chunks(array))
    assert describe(load(tmp_path / "x")).endswith("chunks 4, failed 0, retries 0")


def test_a_trace_that_cannot_be_written_costs_the_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk ends no stream: the trace ends, with a line in the log."""
    require("opentelemetry.sdk")
    give_back(monkeypatch)
    full = tmp_path / "trace.jsonl"
    array, values = filled(Spy())

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with recording(full):
        monkeypatch.setattr(recorder.os, "write", no_space)
        assert sum(int(chunk.data.sum()) for chunk in stream_chunks(array)) == values.sum()
        monkeypatch.undo()
    assert full.read_bytes() == b""
    assert caplog.text.count("ends here: [Errno 28]") == 1


def test_a_span_that_ends_with_the_recording_goes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is being made when the file is closed is not written to the file that gets its descriptor."""
    require("opentelemetry.sdk")
    give_back(monkeypatch)
    from opentelemetry import trace

    stranger = tmp_path / "data"
    held: list[Any] = []

    def made(span: Any) -> dict[str, Any]:
        if span.name == "last":
            surroundings.close()  # the recording ends meanwhile
            held.append(stranger.open("wb", buffering=0))
        return line("last", 0.0, 0.0)

    surroundings = ExitStack()
    surroundings.enter_context(recording(tmp_path / "trace.jsonl"))
    monkeypatch.setattr(recorder, "_line", made)
    with trace.get_tracer("any").start_as_current_span("last"):
        pass
    held[0].close()
    assert stranger.read_bytes() == (tmp_path / "trace.jsonl").read_bytes() == b""


def test_recordings_add_one_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider never gives a processor back: a hundred recordings cost a span what one does."""
    require("opentelemetry.sdk")
    give_back(monkeypatch)
    from opentelemetry import trace

    for turn in range(100):
        with recording(tmp_path / f"{turn}.jsonl", f"run {turn}"):
            pass
    provider: Any = trace.get_tracer_provider()
    assert len(provider._active_span_processor._span_processors) == 1
    assert [load(tmp_path / f"{turn}.jsonl")[0]["name"] for turn in (0, 99)] == ["run 0", "run 99"]
