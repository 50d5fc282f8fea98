"""The array libraries, and the ways to run a function in them, behind one record."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Library:
    """How to make an array, to read it, and to run a function of one array.

    Attributes:
        array: (NumPy array, dtype name) -> array of the library.
        numpy: Array -> NumPy array in float64.
        run: Function of one array -> the same function eager, compiled, or mapped over the first axis.
        dtypes: The floating dtypes it has.
    """

    array: Callable[..., Any]
    numpy: Callable[[Any], np.ndarray]
    run: Callable[[Callable], Callable]
    dtypes: tuple[str, ...]


def _numpy() -> Library:
    return Library(
        lambda x, dtype="float64": np.asarray(x).astype(dtype),
        lambda x: np.asarray(x, np.float64),
        lambda f: f,
        ("float16", "float32", "float64"),
    )


def _torch(run) -> Library:
    import torch

    def compiled(f):
        torch._dynamo.reset()
        return torch.compile(f, fullgraph=True, dynamic=False, backend="aot_eager" if run == "aot" else "eager")

    return Library(
        lambda x, dtype="float64": torch.tensor(np.asarray(x)).to(getattr(torch, dtype)),
        lambda x: x.double().numpy(),
        {"eager": lambda f: f, "vmap": torch.func.vmap}.get(run, compiled),
        ("float16", "bfloat16", "float32", "float64"),
    )


def _jax(run) -> Library:
    import jax

    def sharded(f):
        from jax.sharding import PartitionSpec as P

        mesh = jax.make_mesh((1,), ("groups",), axis_types=(jax.sharding.AxisType.Auto,))
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("groups"), out_specs=P("groups")))

    return Library(
        lambda x, dtype="float64": jax.numpy.asarray(np.asarray(x)).astype(dtype),
        lambda x: np.asarray(x, np.float64),
        {"eager": lambda f: f, "jit": jax.jit, "vmap": jax.vmap, "shard_map": sharded}[run],
        ("float16", "bfloat16", "float32", "float64"),
    )


def _strict() -> Library:
    import array_api_strict as xp

    return Library(
        lambda x, dtype="float64": xp.asarray(np.asarray(x).astype(dtype)),
        lambda x: np.asarray(x, np.float64),
        lambda f: f,
        ("float32", "float64"),
    )


EAGER = ["numpy", "torch", "jax", "strict"]
TRANSFORMED = ["torch-compile", "torch-aot", "torch-vmap", "jax-jit", "jax-vmap", "jax-shard_map"]


@cache
def library(name: str) -> Library:
    """Return a library by name; skips the test where it is not installed."""
    kind, _, run = name.partition("-")
    make = {"numpy": _numpy, "strict": _strict, "torch": _torch, "jax": _jax}[kind]
    return make(run or "eager") if kind in ("torch", "jax") else make()
