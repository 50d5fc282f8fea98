"""The GPU kernel: in Triton's interpreter, which must be chosen before Triton is imported; compiled; and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux")
HERE = Path(__file__).parent


def run(*arguments, **environment):
    out = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


def test_in_the_interpreter():
    out = run("-m", "pytest", "-q", str(HERE / "triton_interpreted.py"), TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert "passed" in out
    assert "skipped" not in out


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_for_a_gpu_that_is_not_here(tmp_path, masked):
    """To machine code of an H100, by the compiler that Triton brings along."""
    program = (
        "import triton\n"
        "from triton.backends.compiler import GPUTarget\n"
        "from triton.compiler import ASTSource\n"
        "from ordergrad.kernels import cuda\n"
        "kinds = dict.fromkeys(cuda._scan.arg_names, '*fp32') | {'mask': '*u8', 'count': 'i32', 'n': 'i32'}\n"
        f"fixed = {{'rows': 64, 'width': 16, 'masked': {masked}, 'ragged': False}}\n"
        "source = ASTSource(cuda._scan, kinds | dict.fromkeys(fixed, 'constexpr'), fixed)\n"
        "options = {'num_warps': 4, 'enable_fp_fusion': True}\n"
        "print(len(triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options).asm['cubin']))\n"
    )
    script = tmp_path / "compile.py"
    script.write_text(program)
    assert int(run(script, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")) > 1000


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
