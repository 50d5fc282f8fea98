"""Run the authors' code and write what it returns, for tests/docs/test_migration.py: their package, not ours.

Both packages import as `ordergrad`: run it with a clone of github.com/paavo5/ordergrad on the path instead of ours.

    PYTHONPATH=/path/to/clone python tests/support/reference_numbers.py COMMIT tests/docs/reference_numbers.json
"""

import datetime
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch

import ordergrad

PRESETS = (
    *("ReMax", "ReMin", "TopM:2", "BotM:3", "Rank:2", "TopBot:2", "MidrangeM:1", "Median", "TrimM:1", "WinsorizedM:1"),
    *("LowerTailMean:0.3", "UpperTailMean:0.3", "RangeLowerTailMean:0.2:0.7", "RangeUpperTailMean:0.2:0.7"),
    *("TrimmedMeanFrac:0.2:0.7", "Quantile:0.3", "QuantileHazen:0.3", "QuantileWeibull:0.3", "QuantileBlom:0.3"),
    *("TopQuantile:0.3", "TopQuantileHazen:0.3", "TopQuantileWeibull:0.3", "TopQuantileBlom:0.3"),
    *("HarrellDavis:0.3", "GiniMeanDifference", "GMD", "LMoment:1", "LMoment:2", "LMoment:3"),
)
SIZES = (5, 8, 10)
REWARDS = [0.3, -1.0, 2.0, 0.7, 1.1, -0.2, 0.3, 4.0, -3.0]
OUTCOMES, PROBS = [-1.0, 0.2, 1.1, 2.4], [0.1, 0.45, 0.3, 0.15]
CALLS = ("lstat", "lstat_advantage", "lstat_inclusion", "lstat_leave_one_out")


def transform(n: int, k: float, backend: str = "numpy", **options):
    return ordergrad.get_backend(backend).OrderStatTransform.precompute(n, k, **options)


def calls(k: float, preset: str) -> dict:
    og, x = transform(len(REWARDS), k), np.array(REWARDS)
    found = {name: np.asarray(getattr(og, name)(x, preset)).tolist() for name in CALLS}
    found["lstat_weight_by_rank"] = og.lstat_weight_by_rank(preset).tolist()
    r, p = np.array(OUTCOMES), np.array(PROBS)
    for name in ("lstat_known_rp", "lstat_inclusion_known_rp", "lstat_advantage_known_rp"):
        found[name] = np.asarray(getattr(og, name)(r, p, preset)).tolist()
    return found


def ranks(k: int) -> dict:
    og, x = transform(len(REWARDS), k), np.array(REWARDS)
    names = ("orderstats", "orderstats_inclusion", "orderstats_leave_one_out", "orderstats_advantage")
    found = {name: getattr(og, name)(x).tolist() for name in names}
    r, p = np.array(OUTCOMES), np.array(PROBS)
    return {**found, "orderstats_known_rp": og.orderstats_known_rp(r, p).tolist()}


def edges() -> dict:
    """What happens at the edges, in float32 as in training."""
    og, x = transform(8, 4, dtype=np.float32), np.float32([0.3, -1.0, 2.0, 0.7, 1.1, -0.2, 0.4, 4.0])
    a, moved = og.lstat_advantage(x, "TopM:2"), og.lstat_advantage(x + np.float32(2**20), "TopM:2")
    try:
        og.lstat(np.zeros((2, 8)), "TopM:2")
        batches = "accepted"
    except ValueError as error:
        batches = str(error)
    return {
        "largest_advantage_of_equal_rewards": float(np.abs(og.lstat_advantage(np.full(8, 0.1, "f4"), "TopM:2")).max()),
        "largest_change_of_an_advantage_by_adding_2_to_the_20": float(np.abs(moved - a).max()),
        "shape_2_8": batches,
    }


def apart(backend: str, convert) -> float:
    """Return the largest difference of an advantage from that of the NumPy backend, over all presets."""
    x, found = np.float32(REWARDS), []
    for preset in PRESETS:
        a = transform(len(x), 5).lstat_advantage(x, preset)
        found.append(np.abs(np.asarray(transform(len(x), 5, backend).lstat_advantage(convert(x), preset)) - a).max())
    return float(max(found))


def main() -> None:
    commit, path = sys.argv[1], Path(sys.argv[2])
    content = {
        "repository": "github.com/paavo5/ordergrad",
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "weights": {
            preset: {str(k): transform(k + 1, k)._validate_a(preset, k).tolist() for k in SIZES} for preset in PRESETS
        },
        "vector": transform(5, 4)._validate_a([0.5, 0.3, 0.2, 0.0], 4).tolist(),
        "rewards": REWARDS,
        "outcomes": OUTCOMES,
        "probs": PROBS,
        "calls": {f"{preset}, {k:g}": calls(k, preset) for preset in ("TopM:2", "Quantile:0.3") for k in (4, 5)},
        "real": {f"{preset}, {k:g}": calls(k, preset) for preset in ("ReMax", "Median") for k in (2.5,)},
        "ranks": {str(k): ranks(k) for k in (3, 4)},
        "edges": edges(),
        "largest_difference_of_backends": {"torch": apart("torch", torch.tensor), "jax": apart("jax", jnp.asarray)},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
