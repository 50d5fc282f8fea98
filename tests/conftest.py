"""Settings of the whole test-suite."""

import os
from importlib.util import find_spec

os.environ.setdefault("JAX_ENABLE_X64", "1")

if find_spec("numba"):  # every test goes the way of the kernel, and tests/kernels/ compare it with the generic one
    from ordergrad.backends import host

    host.kernel()

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
