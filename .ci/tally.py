"""Add up the results that each tox environment's pytest wrote, and end with the one line that says it all."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def count(report: Path) -> tuple[int, int, int]:
    """Return the passed, failed and skipped tests of a JUnit file; an environment that wrote none failed once."""
    try:
        suites = list(ET.parse(report).iter("testsuite"))  # noqa: S314 - our own pytest wrote it, a minute ago
    except (FileNotFoundError, ET.ParseError):
        return 0, 1, 0
    total, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return max(total - failed - skipped, 0), failed, skipped


def main(folder: str, *environments: str) -> int:
    """Print one row per environment and the sum; return 1 if anything failed or nothing passed."""
    counts = {name: count(Path(folder) / f"{name}.xml") for name in environments}
    for name, (passed, failed, skipped) in counts.items():
        print(f"  {name:<8}{passed:>6} + {failed:>6} - {skipped:>6} o")
    passed, failed, skipped = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    print("  (+ passed, - failed, o skipped)")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
