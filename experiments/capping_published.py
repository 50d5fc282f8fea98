"""Read what the published code of Return Capping logged: the tail of every batch of training episodes.

Nothing of that code is in this repository. It was run unchanged, at commit 29efde3 of
https://github.com/HarryMJMead/cvar-return-capping, with torch 2.13.0 on one CPU thread and the versions below, since
newer releases of TorchRL refuse one of its arguments:

    pip install "torchrl==0.7.2" "tensordict==0.7.2" "hydra-core" "hydra-colorlog" "wandb"
    python main.py env=betting_game cap_return=True cap_alpha=0.2 cap_tau=0.1 policy.seed=0 num_steps=1000000 \
        "hydra.verbose=[__main__]" > published.log
    python main.py env=betting_game cap_return=True cap_alpha=0.2 cap_tau=0.1 policy.seed=0 num_steps=201000 \
        env.win_prob=0.8 "hydra.verbose=[__main__]" > published_80.log

The first was stopped after 201,000 steps, the second after 6,000; its environment has no seed. Then, from the root:

    python experiments/capping_published.py published.log published_80.log --results experiments/results/return_capping
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

from ordergrad.envs import betting_game
from ordergrad.runs.folder import provenance, write_json, write_rows

COLUMNS = {
    "steps": "num_env_steps",
    "episodes": "num_env_eps",
    "cvar:0.2": "CVaR/CVaR: 0.2",
    "cvar:0.05": "CVaR/CVaR: 0.05",
    "mean": "CVaR/CVaR: 1.0",
    "cap": "Policy/Return Cap",
}
COMMIT = "29efde316948c349edb6e38310e195a46a2bd0b9"
LAST = 10
"""Batches whose mean is reported, about 500 episodes each."""


def batches(log: str) -> list[dict[str, float]]:
    """Return a row for every batch of a log."""
    rows: list[dict[str, float]] = []
    for line in log.splitlines():
        if "num_env_steps" in line:
            found = dict(re.findall(r"'([^']+)': (?:np\.float64\()?(-?[\d.e+-]+)", line))
            rows.append({name: float(found[key]) for name, key in COLUMNS.items()})
    return rows


def best_possible(chance: float) -> float:
    """Return the largest CVaR 20% of any policy in a betting game that is won with another probability."""
    with patch.object(betting_game, "WIN_PROBABILITY", chance):
        return betting_game.best_value("cvar:0.2")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Read logs of the published code.")
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(argv)
    logs = {path.stem: batches(path.read_text(errors="replace")) for path in options.logs}
    write_rows(
        options.results / "published_code.csv", [{"log": log} | row for log, rows in logs.items() for row in rows]
    )
    command = f"python experiments/capping_published.py {' '.join(map(str, options.logs))} --results {options.results}"
    found = {
        log: {
            "steps": rows[-1]["steps"],
            "first batch": rows[0]["cvar:0.2"],
            f"last {LAST} batches": {
                name: fmean(r[name] for r in rows[-LAST:]) for name in ("cvar:0.2", "mean", "cap")
            },
        }
        for log, rows in logs.items()
    }
    best = {chance: best_possible(chance) for chance in (0.8, 0.88)}
    facts = {"commit": COMMIT, "runs": found, "best possible": best}
    write_json(options.results / "published_code.json", provenance(command) | facts)


if __name__ == "__main__":
    main()
