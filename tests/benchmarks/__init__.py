"""Measurements: `python -m tests.benchmarks`, and `python -m tests.benchmarks.import_time`. None of them is a test."""
