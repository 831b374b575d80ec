"""The mappings as fsspec file systems: ``zarr.open("sqlite:///x.db")`` works without a word about zarrstream."""

from zarrstream.filesystem.base import MappingFileSystem
from zarrstream.filesystem.names import SharedMemoryFileSystem
from zarrstream.filesystem.paths import LMDBFileSystem, SQLiteFileSystem, ZarrZipFileSystem
from zarrstream.filesystem.servers import MongoDBFileSystem, PostgreSQLFileSystem

__all__ = [
    "LMDBFileSystem",
    "MappingFileSystem",
    "MongoDBFileSystem",
    "PostgreSQLFileSystem",
    "SQLiteFileSystem",
    "SharedMemoryFileSystem",
    "ZarrZipFileSystem",
]
