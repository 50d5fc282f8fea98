"""Time to import the package, in processes of their own."""

import subprocess
import sys
from typing import Any

import pytest

PROGRAMS = {"python": "pass", "import numpy": "import numpy", "import ordergrad": "import ordergrad"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_import(benchmark: Any, name: str) -> None:
    benchmark.group, benchmark.name = "import", name
    command = [sys.executable, "-c", PROGRAMS[name]]
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=20, warmup_rounds=2)
