"""Settings of the whole test-suite."""

import os

os.environ.setdefault("JAX_ENABLE_X64", "1")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fixed")
