"""The mappings as fsspec file systems: ``zarr.open("sqlite:///x.db")`` works without a word about zarrstream."""

from zarrstream.filesystem.base import MappingFileSystem
from zarrstream.filesystem.paths import SQLiteFileSystem, ZarrZipFileSystem

__all__ = ["MappingFileSystem", "SQLiteFileSystem", "ZarrZipFileSystem"]
