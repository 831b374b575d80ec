"""Threads, processes and time: the ground floor, which knows neither zarr nor bytes."""
