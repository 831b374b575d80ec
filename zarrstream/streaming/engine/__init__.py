"""Bounded work ahead, in threads and on a loop; knows neither reading nor writing."""
