"""What the GPU kernel executes, counted without a GPU: ``python benchmarks/gpu_code.py > benchmarks/gpu_code.md``.

Triton compiles for an H100 on any Linux machine. The kernel has no loop, so the instructions in its code are those that
a warp executes, and a count per reward, over the throughput of the unit that executes them, bounds the time from below.
Nothing here is a measurement; `gpu.py` measures.
"""

import platform
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ordergrad.kernels import cuda

SHAPES = [(65536, 8), (65536, 16), (32768, 32), (16384, 64), (8192, 128), (4096, 256), (4096, 1024), (2048, 2048)]
SMS, CLOCK, MEMORY = 132, 1.755e9, 3.35e12
"""Multiprocessors, cycles a second and bytes a second of an H100 SXM, by its data sheet."""

RATES = {"all": 128, "compare, select, integer": 64, "shuffle": 32, "memory": 32}
"""Instructions that a multiprocessor finishes in a cycle: CUDA programming guide, compute capability 9.0."""

_FLOATING = {"FADD", "FMUL", "FFMA", "IMAD", "MOV", "CS2R", "NOP"}
_MEMORY = {"LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDC", "ULDC"}


@dataclass(frozen=True)
class Code:
    """Registers of a thread, bytes it spills to memory, and the instructions of a reward by the unit that runs them."""

    registers: int
    spilled: int
    instructions: dict[str, float]


def compiled(n: int, masked: bool = False, ragged: bool = False, capability: int = 90) -> Code:
    """Compile the kernel for groups of n."""
    kernel: Any = cuda._scan
    kinds = dict.fromkeys(kernel.arg_names, "*fp32") | {"mask": "*u8", "count": "i32", "n": "i32"}
    kinds |= dict.fromkeys(("positions", "starts", "sizes", "row", "at", "groups"), "*i32")
    fixed, warps = cuda.variant(n, masked, ragged)
    signature = {name: "constexpr" if name in fixed else kinds[name] for name in kernel.arg_names}
    sixteen = ("positions", "starts", "sizes", "row", "at", "groups", "count")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if name not in sixteen and (kind.startswith("*") or (name == "n" and n % 16 == 0))
    }
    made: Any = triton.compile(
        ASTSource(kernel, signature, fixed, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": True},
    )
    share = 32 * warps / (fixed["rows"] * n)
    return _read(made.asm["cubin"], share)


def _read(cubin: bytes, share: float) -> Code:
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage, code = (
            subprocess.run([tools / tool, *options, file], capture_output=True, text=True, check=True).stdout
            for tool, options in (("cuobjdump", ["-res-usage"]), ("nvdisasm", ["-c"]))
        )
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", code, re.MULTILINE)
    units: Counter[str] = Counter()
    for name in names:
        units["all"] += 1
        if name == "SHFL":
            units["shuffle"] += 1
        elif name in _MEMORY:
            units["memory"] += 1
        elif name not in _FLOATING:
            units["compare, select, integer"] += 1
    return Code(registers, stack, {unit: units[unit] * share for unit in RATES})


def main() -> None:
    print("# Machine code of the GPU kernel\n")
    print(
        f"Written from `python benchmarks/gpu_code.py` on {date.today()}, on a machine without a GPU "
        f"({platform.machine()}), by Triton {triton.__version__} for an H100. Instructions of a reward; the time they "
        f"take at least, on all {SMS} multiprocessors at {CLOCK / 1e9} GHz with every unit busy in every cycle; and "
        f"that of a copy of the same bytes at the {MEMORY / 1e12} TB/s of the memory. **Calculated, not measured:** a "
        "launch, memory latency and bank conflicts come on top of both.\n"
    )
    print(f"| groups | registers | spilled | {' | '.join(RATES)} | at least, µs | copy, µs | bound by |")
    print(f"|---|{'---:|' * (len(RATES) + 4)}---|")
    for count, n in SHAPES:
        code = compiled(n)
        times = {unit: count * n * per / (RATES[unit] * SMS * CLOCK) for unit, per in code.instructions.items()}
        slowest = max(times, key=lambda unit: times[unit])
        numbers = " | ".join(f"{per:.1f}" for per in code.instructions.values())
        copy = 8 * count * n / MEMORY
        print(
            f"| ({count}, {n}) | {code.registers} | {code.spilled} | {numbers} | {1e6 * times[slowest]:.1f} "
            f"| {1e6 * copy:.1f} | {slowest} |"
        )


if __name__ == "__main__":
    main()
