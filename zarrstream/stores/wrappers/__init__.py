"""Stores around any store: retries, limits, spans, a cache."""
