"""Robust Bayesian optimisation: find the input that is good when it is met only roughly, in few evaluations.

The input that is asked for is met with a normal error; sought is the one whose worst 20% of outcomes are best on
average. A Gaussian process is fitted to the exact evaluations so far, the risk of a candidate is computed over 16
perturbations of it in every posterior sample, and `qLogNoisyExpectedImprovement` picks the next one. Compared are

* `cvar:0.2@16` of `ordergrad.adapters.botorch`: a tail of 3.2 perturbations;
* BoTorch's CVaR at alpha = 0.8: a tail of 4, since it takes whole ones;
* BoTorch's expectation: risk-neutral, but it knows of the perturbations;
* Sobol points, no model in the choice of inputs.

All recommend the evaluated input whose posterior mean of the CVaR is best. Its true CVaR over 2,048 perturbations is
compared with the best there is: the regret.

    python experiments/robust_bo.py --results experiments/results/robust_bo --images docs/images

Ctrl-C stops after the current evaluation, `--resume` goes on. Needs `pip install ".[studies]"`. Results and
what they mean: docs/studies/robust_bo.md.

References:
    Cakmak et al. (2020). Bayesian Optimization of Risk Measures. NeurIPS 33.
    Bertsimas, Nohadani and Teo (2010). Robust optimization for unconstrained simulation-based problems. Operations
        Research 58. (the polynomial)
    Molga and Smutnicki (2005). Test functions for optimization needs. (the six-hump camel)
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from scipy.optimize import minimize

import ordergrad as og
from ordergrad.runs.folder import METRICS, read_metrics, run_folder
from ordergrad.runs.plots import draw_curve, new_figure, save

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # what PyTorch says about code of a package that BoTorch uses
    try:
        from botorch.acquisition import qLogNoisyExpectedImprovement
        from botorch.acquisition.risk_measures import CVaR, Expectation, RiskMeasureMCObjective
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.models.transforms.input import InputPerturbation
        from botorch.models.transforms.outcome import Standardize
        from botorch.optim import optimize_acqf
        from botorch.sampling import SobolQMCNormalSampler
        from botorch.utils.sampling import draw_sobol_normal_samples, draw_sobol_samples
        from gpytorch.mlls import ExactMarginalLogLikelihood

        from ordergrad.adapters.botorch import OrderGradRiskMeasure
    except ImportError as error:
        raise SystemExit(f'Error: the study needs BoTorch: pip install ".[studies]" ({error})') from None

Tensor = torch.Tensor
BOUNDS = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
OURS, THEIRS, NEUTRAL, SOBOL = "cvar:0.2@16", "BoTorch CVaR", "BoTorch expectation", "Sobol"
CONTENDERS = (OURS, THEIRS, NEUTRAL, SOBOL)


@dataclass(frozen=True)
class Settings:
    """One comparison on both problems."""

    problems: tuple[str, ...] = ("polynomial", "camel")
    seeds: int = 8
    first: int = 6  # Sobol points that all begin with
    evaluations: int = 24  # with those
    perturbations: int = 16
    spread: float = 0.1  # of the input's error, in units of the box
    level: float = 0.2
    posterior_samples: int = 32
    restarts: int = 3
    raw_samples: int = 32
    true_perturbations: int = 2048
    grid: int = 101


# Problems -----------------------------------------------------------------------------------------------------------


def polynomial(x: Tensor) -> Tensor:
    """Bertsimas et al.'s polynomial on [-0.95, 3.2] x [-0.45, 4.4], negated; inputs in the unit square."""
    a, b = 4.15 * x[..., 0] - 0.95, 4.85 * x[..., 1] - 0.45
    first = 2 * a**6 - 12.2 * a**5 + 21.2 * a**4 - 6.4 * a**3 - 4.7 * a**2 + 6.2 * a
    second = b**6 - 11 * b**5 + 43.3 * b**4 - 74.8 * b**3 + 56.9 * b**2 - 10 * b
    return -(first + second - 4.1 * a * b - 0.1 * a**2 * b**2 + 0.4 * a * b**2 + 0.4 * a**2 * b)


def camel(x: Tensor) -> Tensor:
    """The six-hump camel on [-3, 3] x [-2, 2], negated; inputs in the unit square."""
    a, b = 6 * x[..., 0] - 3, 4 * x[..., 1] - 2
    return -((4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2)


PROBLEMS: dict[str, Callable[[Tensor], Tensor]] = {"polynomial": polynomial, "camel": camel}


def perturbed(x: Tensor, errors: Tensor) -> Tensor:
    """Return the inputs that are met, shape (..., errors, 2): inside the box."""
    return (x[..., None, :] + errors).clamp(0, 1)


def true_risk(problem: str, x: Tensor, settings: Settings, objective: str | None = None) -> Tensor:
    """Return the CVaR, or another objective, of each input over many perturbations."""
    errors = settings.spread * draw_sobol_normal_samples(2, settings.true_perturbations, seed=1, dtype=torch.float64)
    outcomes = torch.cat([PROBLEMS[problem](perturbed(part, errors)) for part in x.split(500)])
    return og.value(outcomes, objective or f"cvar:{settings.level}")


def grid(settings: Settings) -> Tensor:
    axis = torch.linspace(0, 1, settings.grid, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


def other_optima(problem: str, settings: Settings) -> dict[str, Any]:
    """Return the inputs of a grid with the highest value and the highest mean, and their CVaR."""
    points = grid(settings)
    found = {"value": PROBLEMS[problem](points), "mean": true_risk(problem, points, settings, "mean")}
    places = {name: points[values.argmax()] for name, values in found.items()}
    risks = {name: float(true_risk(problem, place[None], settings)) for name, place in places.items()}
    return {name: {"x": place.tolist(), "cvar": risks[name]} for name, place in places.items()}


@cache
def optimum(problem: str, settings: Settings) -> tuple[float, tuple[float, ...]]:
    """Return the best CVaR and where it is: the best of a grid, then a quasi-Newton method on the pathwise gradient."""

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        inputs = torch.tensor(x[None], requires_grad=True)
        risk = -true_risk(problem, inputs, settings).sum()
        risk.backward()
        assert inputs.grad is not None
        return risk.item(), inputs.grad.numpy()[0]

    points = grid(settings)
    best = points[true_risk(problem, points, settings).argmax()]
    found = minimize(loss, best.numpy(), jac=True, bounds=[(0, 1)] * 2, method="L-BFGS-B")
    return -float(found.fun), tuple(found.x.tolist())


# One run ------------------------------------------------------------------------------------------------------------


def risk_measure(contender: str, settings: Settings) -> RiskMeasureMCObjective:
    n = settings.perturbations
    if contender == NEUTRAL:
        return Expectation(n)
    return CVaR(1 - settings.level, n) if contender == THEIRS else OrderGradRiskMeasure(ours(settings), n)


def ours(settings: Settings) -> str:
    return f"cvar:{settings.level}@{settings.perturbations}"


def fitted(x: Tensor, y: Tensor, errors: Tensor) -> SingleTaskGP:
    """Return a Gaussian process on exact evaluations that makes perturbations of what it is asked about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small noise
        noise = torch.full_like(y, 1e-5 * float(y.var()))[:, None]
        transforms = {"outcome_transform": Standardize(1), "input_transform": InputPerturbation(errors, bounds=BOUNDS)}
        model = SingleTaskGP(x, y[:, None], noise, **transforms)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def recommended(model: SingleTaskGP, x: Tensor, settings: Settings) -> Tensor:
    """Return the evaluated input whose posterior mean of the CVaR is best."""
    sampler = SobolQMCNormalSampler(torch.Size([settings.posterior_samples]), seed=0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jitter
        samples = sampler(model.posterior(x))
    risk = OrderGradRiskMeasure(ours(settings), settings.perturbations)
    return x[risk(samples).mean(0).argmax()]


def next_input(contender: str, model: SingleTaskGP, x: Tensor, seed: int, settings: Settings) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jitter, and of a line search that ends early
        sampler = SobolQMCNormalSampler(torch.Size([settings.posterior_samples]), seed=seed)
        sought = {"objective": risk_measure(contender, settings), "prune_baseline": True}
        acquisition = qLogNoisyExpectedImprovement(model, x, sampler=sampler, **sought)
        options = {"maxiter": 30, "seed": seed}
        found, _ = optimize_acqf(acquisition, BOUNDS, 1, settings.restarts, settings.raw_samples, options=options)
    return found[0]


def run(settings: Settings, problem: str, contender: str, seed: int, folder: Path, stop: Any, report: Any) -> bool:
    """Evaluate one input after the other, a line each; goes on with what the folder holds."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_metrics(folder / METRICS)
    function, best = PROBLEMS[problem], optimum(problem, settings)[0]
    sobol = draw_sobol_samples(BOUNDS, settings.evaluations, 1, seed=seed)[:, 0].double()
    errors = settings.spread * draw_sobol_normal_samples(2, settings.perturbations, seed=seed, dtype=torch.float64)
    x = torch.tensor([row["x"] for row in rows], dtype=torch.float64).reshape(-1, 2)
    model = fitted(x, function(x), errors) if len(x) >= settings.first else None
    while len(x) < settings.evaluations:
        if stop():
            return False
        number = len(x)
        torch.manual_seed(1000 * seed + number)
        if model is None or contender == SOBOL:
            new = sobol[number]
        else:
            new = next_input(contender, model, x, 1000 * seed + number, settings)
        x = torch.cat([x, new[None]])
        row: dict[str, Any] = {"step": number + 1, "x": new.tolist(), "y": float(function(new))}
        if len(x) >= settings.first:
            model = fitted(x, function(x), errors)
            choice = recommended(model, x, settings)
            row |= {"choice": choice.tolist(), "regret": best - float(true_risk(problem, choice[None], settings))}
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        report(row)
    return True


def shown(row: Mapping[str, Any], contender: str) -> str:
    return f"regret {row['regret']:.3f}" if "regret" in row else ""


# What came out ------------------------------------------------------------------------------------------------------


def history(out: Path, settings: Settings) -> list[study.Record]:
    """Return every evaluation, and from the first design on the recommendation after it and its regret."""
    rows: list[study.Record] = []
    for task in study.grid(problem=settings.problems, contender=CONTENDERS, seed=range(settings.seeds)):
        for row in read_metrics(run_folder(out / task["problem"], task["contender"], task["seed"]) / METRICS):
            (x1, x2), (choice1, choice2) = row["x"], row.get("choice", ("", ""))
            found = task | {"evaluations": row["step"], "x1": x1, "x2": x2, "y": row["y"]}
            rows.append(found | {"choice1": choice1, "choice2": choice2, "regret": row.get("regret", "")})
    return rows


def regrets(rows: Sequence[study.Record], problem: str, contender: str) -> np.ndarray:
    """Return the regret after every evaluation from the first design on, shape (seeds, evaluations)."""
    chosen = [row for row in rows if row["regret"] != ""]
    found = study.column(chosen, "regret", problem=problem, contender=contender)
    return found.reshape(len({row["seed"] for row in chosen}), -1)


def near_optimum(rows: Sequence[study.Record], problem: str, contender: str, settings: Settings) -> list[int]:
    """Return for each seed how many evaluations were closer to the best input than the spread of the error."""
    best = np.array(optimum(problem, settings)[1])
    where = {"problem": problem, "contender": contender}
    x = np.stack([study.column(rows, name, **where) for name in ("x1", "x2")], axis=1)
    near = np.linalg.norm(x - best, axis=1) < settings.spread
    seeds = study.column(rows, "seed", **where)
    return [int(near[seeds == seed].sum()) for seed in np.unique(seeds)]


def compared(rows: Sequence[study.Record], settings: Settings) -> dict[str, Any]:
    """Return for every problem and contender the regret half way and at the end, and our lead."""
    found: dict[str, Any] = {}
    half = settings.first + (settings.evaluations - settings.first + 1) // 2
    for problem in settings.problems:
        ours = regrets(rows, problem, OURS)[:, -1]
        for contender in CONTENDERS:
            regret = regrets(rows, problem, contender)
            found.setdefault(problem, {})[contender] = {
                f"after {half}": study.rounded(study.over_seeds(regret[:, half - settings.first]), 5),
                f"after {settings.evaluations}": study.rounded(study.over_seeds(regret[:, -1]), 5),
                "evaluations near the best, by seed": near_optimum(rows, problem, contender, settings),
                "median at the end": round(float(np.median(regret[:, -1])), 5),
                "lead of ours at the end": study.rounded(study.paired(regret[:, -1], ours), 5),
            }
    return found


def report(s: study.Study, rows: Sequence[study.Record], settings: Settings) -> None:
    """Write and show the tables and pictures."""
    found = compared(rows, settings)
    s.write_table("evaluations.csv", rows)
    s.write_summary(
        settings,
        columns=["mean over seeds", "low", "high", "p (of leads)"],
        optimum={p: {"cvar": optimum(p, settings)[0], "x": optimum(p, settings)[1]} for p in settings.problems},
        other_optima={p: other_optima(p, settings) for p in settings.problems},
        regret=found,
    )
    ends = [name for name in found[settings.problems[0]][OURS] if name.startswith("after")]
    cells: list[Sequence[str]] = []
    for problem, parts in found.items():
        for contender, values in parts.items():
            numbers = ("{:.3f} [{:.3f}, {:.3f}]".format(*values[name]) for name in ends)
            cells.append([problem, contender, *numbers, f"{values['median at the end']:.3f}"])
    headings = ("problem", "contender", *ends, "median")
    s.show("Regret in CVaR 20%, mean over seeds with 95% intervals", headings, cells, left=2)
    curves = {(p, c): regrets(rows, p, c) for p in settings.problems for c in CONTENDERS}
    draw(curves, np.arange(settings.first, settings.evaluations + 1), s.images / "robust_bo.png")


def draw(found: Mapping[tuple[str, str], np.ndarray], counts: np.ndarray, path: Path) -> None:
    """Draw regret over evaluations: medians and quartiles over seeds."""
    problems = list(dict.fromkeys(problem for problem, _ in found))
    figure, axes = new_figure(len(problems), "Regret in the CVaR of the worst 20%")
    for axis, problem in zip(axes, problems, strict=True):
        for index, contender in enumerate(CONTENDERS):
            low, middle, high = np.quantile(np.maximum(found[problem, contender], 1e-4), [0.25, 0.5, 0.75], axis=0)
            draw_curve(axis, index, contender, counts, middle, (low, high))
        axis.set(yscale="log", xlabel="evaluations", title=problem, xticks=range(counts[0], counts[-1] + 1, 3))
    axes[0].set_ylabel("median over seeds, quartiles")
    axes[-1].legend(frameon=False, fontsize=8)
    save(figure, path)


# Command line -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/robust_bo")
    problems: tuple[str, ...] = field(default=Settings.problems, metadata={"choices": PROBLEMS})
    quick: bool = field(default=False, metadata={"help": "two seeds, twelve evaluations"})


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Robust Bayesian optimisation on a rank objective and on BoTorch's.", argv)
    settings = settings or (replace(Settings(), seeds=2, evaluations=12) if options.quick else Settings())
    settings = replace(settings, problems=options.problems)
    with study.Study(__file__, options, argv) as s:
        s.open(settings, may_change=["problems"])
        for problem in settings.problems:
            value, place = optimum(problem, settings)
            s.console.print(f"[bold]{problem}[/]: best CVaR {value:.3f} at ({place[0]:.3f}, {place[1]:.3f})")
            s.train(partial(run, settings, problem), CONTENDERS, settings.seeds, settings.evaluations, shown, problem)
    report(s, history(s.out, settings), settings)


if __name__ == "__main__":
    main()
