"""The tests of zarrstream."""
