"""Settings of every test: in CI, Hypothesis tries the same examples each time."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
