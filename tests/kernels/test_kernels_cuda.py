"""The GPU kernel: in Triton's interpreter, which must be chosen before Triton is imported; compiled; and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

from ordergrad.backends import torch as backend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux")
TESTS = Path(__file__).parents[1]


def run(*arguments, **environment):
    out = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


def test_in_the_interpreter():
    out = run(
        "-m",
        "pytest",
        "-q",
        str(TESTS / "support" / "triton_interpreted.py"),
        TRITON_INTERPRET="1",
        CUDA_VISIBLE_DEVICES="",
    )
    assert "passed" in out
    assert "skipped" not in out


COMPILE = """
import sys
sys.path.append(sys.argv[1])
import gpu_code
for n, kind in ((32, {}), (13, {"masked": True}), (32, {"ragged": True}), (64, {}), (256, {"masked": True})):
    code = gpu_code.compiled(n, **kind)
    assert code.spilled <= 64, (n, kind, code)
    assert code.instructions["all"] > code.instructions["compare, select, integer"] > 10
"""


def test_compiles_for_a_gpu_that_is_not_here(tmp_path):
    """To machine code of an H100, by the compiler that Triton brings along; registers hardly spill to memory."""
    folder = str(TESTS.parent / "benchmarks")
    run("-c", COMPILE, folder, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0", TRITON_DEFAULT_FP_FUSION="1")


def test_an_old_triton_is_left_alone(monkeypatch):
    for version, serves in (("3.2.0", False), ("3.3.1", True), ("3.10.0+git1", True), ("4.0.0", True)):
        monkeypatch.setattr(triton, "__version__", version)
        monkeypatch.setattr(backend, "_triton", {})
        assert backend._has_triton() == serves


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(1, 2), (100, 16), (7, 1000)])
def test_on_a_gpu_in_a_graph(shape):
    import ordergrad as og

    x = torch.randn(shape, device="cuda")
    mask = torch.rand(shape, device="cuda") < 0.8
    for options in ({}, {"where": mask, "small": "zero"}):
        expected = og.advantages(x, "mean", **options)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = og.advantages(x, "mean", **options)
        graph.replay()
        torch.testing.assert_close(captured, expected)
        host = {key: value.cpu() if key == "where" else value for key, value in options.items()}
        torch.testing.assert_close(expected.cpu(), og.advantages(x.cpu(), "mean", **host), atol=1e-5, rtol=1e-5)
