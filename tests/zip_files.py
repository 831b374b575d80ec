"""Zip archives looked at from outside of the mapping, and made by others."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path


def content(path: Path) -> dict[str, bytes]:
    """Read an archive by the standard library, having checked it, and that each name is in it once."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        methods = {info.compress_type for info in archive.infolist()}
        found = {name: archive.read(name) for name in names}
    unzip = shutil.which("unzip")
    if unzip and names and zipfile.ZIP_LZMA not in methods:
        subprocess.run([unzip, "-tqq", str(path)], check=True)
    return found


def make(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Write an archive by the standard library."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, value in entries.items():
            archive.writestr(name, value)


def sidecars(path: Path) -> list[str]:
    """List what lies beside an archive and belongs to it."""
    return sorted(name for name in os.listdir(path.parent) if name.startswith(f".{path.name}."))  # noqa: PTH208  # names


def descriptors(path: Path) -> int:
    """Count what this process has open of an archive."""
    links = Path("/proc/self/fd").iterdir()
    return sum(str(path) in os.readlink(link) for link in links if link.is_symlink())  # noqa: PTH115  # the text
