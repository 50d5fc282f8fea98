"""Compare every estimator on JAX in its 32-bit mode with NumPy's float64: a process of its own, see test_jax.py."""

import jax
import numpy as np
from catalogue import OPEN, SIZED
from numpy.testing import assert_allclose

import ordergrad as og

jnp = jax.numpy
REWARDS = np.array([[0.5, -1.0, 2.0, 0.5, 3.0, -0.25], [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]])
MASK = np.array([True, True, True, False, True, True])
WEIGHT = np.array([1.0, 2.0, 0.25, 0.5, 1.0, 3.0])
IDS = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
EVERY = {
    "advantages": lambda x, spec: og.advantages(x, spec),
    "k_minus_one": lambda x, spec: og.advantages(x, spec, baseline="k_minus_one"),
    "none": lambda x, spec: og.advantages(x, spec, baseline="none"),
    "masked": lambda x, spec: og.advantages(x, spec, where=MASK),
    "weighted": lambda x, spec: og.advantages(x, spec, sample_weight=WEIGHT),
    "value": lambda x, spec: og.value(x, spec),
    "masked value": lambda x, spec: og.value(x, spec, where=MASK),
    "weighted value": lambda x, spec: og.value(x, spec, sample_weight=WEIGHT),
    "error": lambda x, spec: og.value_and_error(x, spec)[1],
    "include_one": lambda x, spec: og.include_one(x, spec),
    "leave_one_out": lambda x, spec: og.leave_one_out(x, spec),
}
SOME = {
    "flat groups": lambda x: og.group_advantages(x.reshape(-1), IDS, "max@3"),
    "order_statistics": lambda x: og.order_statistics(x, 3),
    "rank_advantages": lambda x: og.rank_advantages(x, 3),
    "exact value": lambda x: og.exact.value(x, WEIGHT / WEIGHT.sum(), "cvar:0.4@3.5"),
    "exact advantages": lambda x: og.exact.advantages(x, WEIGHT / WEIGHT.sum(), "cvar:0.4@3.5"),
    "exact order_statistics": lambda x: og.exact.order_statistics(x, WEIGHT / WEIGHT.sum(), 3),
}


def compare(name, got, expected):
    assert got.dtype == "float32", (name, got.dtype)
    scale = 1 + np.abs(expected).max()
    assert_allclose(np.asarray(got), expected, atol=16 * 2.0**-23 * scale, err_msg=name)


def main():
    x = jnp.asarray(REWARDS)
    assert x.dtype == "float32", "JAX_ENABLE_X64 must be 0"
    compared = 0
    for spec in [*SIZED, *OPEN]:
        for name, function in EVERY.items():
            compare(f"{name} of {spec}", function(x, spec), function(REWARDS, spec))
            compared += 1
    for spec in ("mean", "cvar:0.4", "0.7*mean-0.3*max@2.5"):
        compiled = jax.jit(lambda x, s=spec: {name: function(x, s) for name, function in EVERY.items()})(x)
        for name, function in EVERY.items():
            compare(f"compiled {name} of {spec}", compiled[name], function(REWARDS, spec))
            compared += 1
    compiled = jax.jit(lambda x: {name: function(x) for name, function in SOME.items()})(x)
    for name, function in SOME.items():
        for got in (function(x), compiled[name]):
            compare(name, got, function(REWARDS))
            compared += 1
    print(compared, "comparisons")


if __name__ == "__main__":
    main()
