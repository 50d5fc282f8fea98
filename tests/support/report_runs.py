"""Folders of runs as the commands write them, without training: known numbers in, the report's numbers out."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ordergrad.runs.folder import open_folder, run_folder, write_csv, write_json
from ordergrad.train.llm_settings import LLMSettings
from ordergrad.train.rl_settings import RLSettings

RL = RLSettings("CartPole-v1", ("cvar:0.1", "mean", "max@8"), seeds=2, steps=2000, episodes=200)
LLM = LLMSettings(("top:2@4", "cvar:0.25", "max@4..mean", "grpo"), seeds=2, steps=40, eval_problems=30, eval_samples=16)


def metrics(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rl_run(out: Path, settings: RLSettings = RL, evaluate: bool = True) -> Path:
    """A run of `train rl`; the returns of a seed are those of `returns`."""
    open_folder(out, asdict(settings), kind="train rl", resume=False)
    for index, objective in enumerate(settings.objectives):
        for seed in range(settings.seeds):
            folder = run_folder(out, objective, seed)
            watched = dict.fromkeys(("mean", "cvar:0.1", *settings.objectives))
            steps = range(500, settings.steps + 1, 500)
            rows = [
                {"step": step, "episodes": step // 20, "ranked": 31, "length": 20.0}
                | dict.fromkeys(watched, step / 100 + 3 * index + seed)
                for step in steps
            ]
            metrics(folder, rows)
            if evaluate:
                sample = returns(index, seed, settings.episodes)
                write_csv(folder / "evaluation.csv", ("return", "length"), [(float(r), 20) for r in sample])
    return out


def returns(index: int, seed: int, episodes: int) -> np.ndarray:
    return np.random.default_rng([index, seed]).normal(100 + 10 * index, 5 + 10 * index, episodes).round(3)


def llm_run(out: Path, settings: LLMSettings = LLM) -> Path:
    """A run of `train llm`; the successes of a seed are those of `successes`."""
    open_folder(out, asdict(settings), kind="train llm", resume=False)
    names = [("warm start", out / "warm-start"), *((o, None) for o in settings.objectives)]
    for index, (objective, warm) in enumerate(names):
        for seed in range(1 if warm else settings.seeds):
            folder = warm or run_folder(out, objective, seed)
            good = successes(index, seed, settings)
            rows = [(i, int(c), settings.eval_samples, 9.5) for i, c in enumerate(good)]
            write_csv(folder / "evaluation.csv", ("problem", "successes", "samples", "mean_length"), rows)
            if not warm:
                metrics(folder, [{"step": s, "reward": s / 100 + seed / 10, "entropy": 1.0} for s in range(10, 41, 10)])
    return out


def successes(index: int, seed: int, settings: LLMSettings) -> np.ndarray:
    rng = np.random.default_rng([7, index, seed])
    return rng.binomial(settings.eval_samples, rng.beta(1, 4, settings.eval_problems))


def score_run(out: Path) -> Path:
    """A run of `score` over two logs."""
    settings = {"logs": ["a.jsonl", "b.jsonl"], "objectives": ["mean", "max@4"], "success": 1.0}
    open_folder(out, settings, kind="score", resume=False)
    logs = []
    for index, name in enumerate(("a", "b")):
        u = np.linspace(0, 1, 101)
        values = [
            {"objective": o, "value": v + index, "error": 0.1, "low": v + index - 0.2, "high": v + index + 0.2}
            | {"groups": 40, "too_small": 3 * index}
            for o, v in (("mean", 0.25), ("max@4", 0.75))
        ]
        signal = [
            {"objective": o, "groups": 40, "too_small": 0, "no_signal": s, "effective": 3.5, "effective_share": 0.4}
            | {"rows": 320}
            for o, s in (("mean", 0.125), ("max@4", 0.25), ("grpo", 0.125))
        ]
        curves = [
            {"curve": c, "k": k, "value": 1 - 0.5**k, "error": None, "low": None, "high": None, "groups": 40}
            for c in ("pass", "max")
            for k in (1, 2, 4, 8)
        ]
        steps = [
            {"step": s, "objective": o, "value": s / 10, "error": 0.1, "groups": 4}
            for s in range(5)
            for o in ("mean", "max@4")
        ]
        logs.append(
            {"log": name, "files": [f"{name}.jsonl"], "rows": 322, "used": 320, "masked": 0, "broken": 2 * index}
            | {"groups": 40, "smallest": 8, "largest": 8, "mean": 0.25, "sd": 0.4, "min": 0.0, "max": 1.0}
            | {"exact_quantiles": True, "scattered": False, "values": values, "signal": signal, "curves": curves}
            | {"tails": [{"statistic": "cvar:0.05", "value": -1.5}], "steps": steps}
            | {"quantiles": [{"u": float(x), "reward": float(x > 0.75)} for x in u]}
        )
    comparison = {"log": "b", "against": "a", "objective": "mean", "difference": 1.0, "error": 0.1, "low": 0.8}
    comparison |= {"high": 1.2, "p_value": 1e-5, "method": "paired", "pairs": 40}
    results = {"objectives": ["mean", "max@4"], "success": 1.0, "logs": logs, "comparisons": [comparison], "broken": []}
    write_json(out / "results.json", results)
    return out
