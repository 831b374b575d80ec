"""What every test runs under: the leak checks and Hypothesis's profile."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["pytester", "tests.leaks", "tests.cloud_services", "tests.services"]

# No deadline: the machine is shared, and a slow example is no wrong one.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("ZARRSTREAM_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))
