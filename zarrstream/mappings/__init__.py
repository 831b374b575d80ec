"""Bytes under string keys: one mapping per file, synchronous, and without any knowledge of zarr."""
