"""Symbolic regression: the best of many tries instead of their mean, against deep symbolic regression's own estimator.

A recurrent policy writes expressions in prefix order and is rewarded by 1/(1 + NRMSE) on twenty points of a hidden
function, Nguyen-1 to Nguyen-12. What counts is whether it ever writes that function. Petersen et al. (2021) train on
the top 5% of each batch, with a biased estimator of what is here `uppercvar:0.05`. The study trains on several
objectives in the same code, everything else equal, and counts expressions until recovery:

    python experiments/symbolic_regression.py --results experiments/results/symbolic_regression --images docs/images
    python experiments/symbolic_regression.py --problems Nguyen-6 --contenders mean uppercvar:0.05 --seeds 3

A run that is in the results already is not repeated: with `--resume` and more `--seeds`, `--problems` or
`--expressions` the same command adds to them. `--tune` compares learning rates instead, on seeds apart; `--compare` the
gradients of the contenders on the same batches. Ctrl-C stops after the current batch. Needs `pip install
"ordergrad[studies]"`. Results and what they mean: docs/studies/symbolic_regression.md.

References:
    Petersen et al. (2021). Deep symbolic regression: Recovering mathematical expressions from data via risk-seeking
        policy gradients. ICLR, arXiv 1912.04871.
    Wilson (1927). Probable inference, the law of succession, and statistical inference. JASA 22. (intervals)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import study
from rich.console import Console
from scipy.stats import binomtest
from symbolic.expressions import NGUYEN, encode, errors, evaluate
from symbolic.figures import draw_limits, draw_recovery
from symbolic.policy import Policy, Rules, follow, sample
from symbolic.search import RESULT, Search, Settings, sample_weights, search_on
from threadpoolctl import threadpool_limits

from ordergrad.runs.console import chosen_jobs
from ordergrad.runs.errors import UserError
from ordergrad.runs.folder import METRICS, open_folder, read_metrics, run_folder, write_csv
from ordergrad.runs.parallel import Report, ShouldStop

DSR = "dsr:0.05"
CONTENDERS = ("mean", DSR, "uppercvar:0.05", "max@20", "max@100")
RATES = (0.0005, 0.002, 0.005)  # the first is the published one, for ten times as many expressions
TUNING_SEED = 100
STUDY = Settings()


def named(default: Any, text: str, **extra: Any) -> Any:
    return field(default=default, metadata={"help": text, **extra})


@dataclass(frozen=True)
class Options(study.Options):
    problems: tuple[str, ...] = field(default=tuple(NGUYEN), metadata={"choices": NGUYEN, "metavar": "NGUYEN-K"})
    contenders: tuple[str, ...] = field(default=CONTENDERS, metadata={"choices": CONTENDERS, "metavar": "OBJECTIVE"})
    seeds: int = named(10, "seeds 0 to SEEDS - 1 [10]")
    expressions: int = named(200_000, "evaluated by a run without recovery [200000]")
    rate: float = named(STUDY.learning_rate, "learning rate [%(default)s]")
    tune: bool = named(False, "compare learning rates, on other seeds, instead")
    compare: bool = named(False, "compare the gradients on equal batches instead")
    out: Path = Path("runs/symbolic_regression")
    curves: tuple[str, ...] = field(default=("Nguyen-5", "Nguyen-7", "Nguyen-12"), metadata={"choices": NGUYEN})


# The runs -----------------------------------------------------------------------------------------------------------

COLUMNS = ("problem", "contender", "seed", "budget", "expressions", "recovered", "best", "seconds", "expression")
Row = dict[str, Any]


def run(
    settings: Settings,
    problem: str,
    expressions: int,
    finished: frozenset[tuple[str, int]],
    first: int,
    contender: str,
    seed: int,
    folder: Path,
    stop: ShouldStop,
    report: Report,
) -> bool:
    """Search until recovery or until so many expressions were evaluated; returns whether that is done.

    The seed is `first + seed`; `finished` are those that need no run.
    """
    if (contender, seed) in finished:
        return True
    with threadpool_limits(1):  # of NumPy and PyTorch: such small matrices are slower with more threads
        return search_on(Search(settings, problem, contender, first + seed), expressions, folder, stop, report)


def read_rows(path: Path) -> dict[tuple[str, str, int], Row]:
    """The runs of a table by problem, contender and seed; none if there is no table."""
    return {key(row): row for row in study.read_table(path)}


def key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["problem"], row["contender"], row["seed"]


def write_rows(path: Path, rows: Mapping[tuple[str, str, int], Row]) -> None:
    order = sorted(rows, key=lambda k: (list(NGUYEN).index(k[0]), k[1], k[2]))
    write_csv(path, COLUMNS, [[rows[k][name] for name in COLUMNS] for k in order])


def is_done(row: Row | None, expressions: int) -> bool:
    return row is not None and (row["recovered"] != "no" or row["expressions"] >= expressions)


def search_all(s: study.Study, settings: Settings, asked: Options, out: str, table: Path, first: int = 0) -> None:
    """Do what the table lacks, problem by problem, and add it to the table."""
    rows = read_rows(table)
    for problem in asked.problems:
        wanted = [(contender, seed) for contender in asked.contenders for seed in range(asked.seeds)]
        finished = frozenset(w for w in wanted if is_done(rows.get((problem, w[0], first + w[1])), asked.expressions))
        if len(finished) < len(wanted):
            searching = partial(run, settings, problem, asked.expressions, finished, first)
            part = f"{out}{problem}"
            try:
                s.train(searching, asked.contenders, asked.seeds, asked.expressions, shown, part)
            finally:
                for contender, seed in [w for w in wanted if w not in finished]:
                    path = run_folder(s.out / part, contender, seed) / RESULT
                    if path.exists():
                        row = json.loads(path.read_text())
                        rows[key(row)] = row
                write_rows(table, rows)
        for contender, seed in wanted:  # what is recovered is settled for any number of expressions
            row = rows[problem, contender, first + seed]
            row["budget"] = max(row["budget"], asked.expressions)
        write_rows(table, rows)


def shown(row: Mapping[str, Any], contender: str) -> str:
    return f"best {row['best']:.4f}  mean {row['mean']:.3f}  entropy {row['entropy']:.2f}"


def tune(s: study.Study, asked: Options) -> None:
    """Search with every learning rate on seeds apart, and show how many expressions that takes."""
    every: list[list[Any]] = []
    for rate in RATES:
        folder = s.out / f"tune-{rate:g}"
        settings = replace(STUDY, learning_rate=rate)
        search_all(s, settings, asked, f"{folder.name}/", folder / "runs.csv", first=TUNING_SEED)
        every += [
            [f"{rate:g}", *(row[name] for name in COLUMNS[:6])] for row in read_rows(folder / "runs.csv").values()
        ]
    write_csv(s.results / "tuning.csv", ("learning_rate", *COLUMNS[:6]), every)
    for rate, number in tuned(s.results / "tuning.csv").items():
        s.console.print(f"learning rate {rate:g}: {number:,.0f} expressions (geometric mean)")


def tuned(path: Path) -> dict[float, float]:
    """The geometric mean of expressions over all runs of each learning rate in a table of `tune`."""
    rows = study.read_table(path)
    rates = dict.fromkeys(row["learning_rate"] for row in rows)
    return {rate: float(np.exp(np.log(study.column(rows, "expressions", learning_rate=rate)).mean())) for rate in rates}


def compare_gradients(settings: Settings, problems: Sequence[str], path: Path, console: Console) -> None:
    """Write how the contenders' gradients differ on the same batches: signal, noise, direction.

    Forty batches of the first policy, and forty after thirty updates on `uppercvar:0.05`, without the entropy bonus.
    Signal is the length of the mean gradient (corrected for the noise left in it), noise the root of the summed
    variances of its components in one batch, cosine that of the mean gradient to the one of `uppercvar:0.05`.
    """
    rows: list[tuple[Any, ...]] = []
    for problem in problems:
        search = Search(settings, problem, "uppercvar:0.05", TUNING_SEED)
        for updates in (0, 30):
            for _ in range(updates):
                search.step()
            every = np.array([gradients(search) for _ in range(40)])  # (batches, contenders, weights)
            mean, noise = every.mean(axis=0), every.var(axis=0, ddof=1).sum(axis=1)
            signal = np.sqrt(np.maximum((mean**2).sum(axis=1) - noise / len(every), 0))
            ours = mean[CONTENDERS.index("uppercvar:0.05")]
            cosine = mean @ ours / np.linalg.norm(mean, axis=1) / np.linalg.norm(ours)
            for contender, *found in zip(CONTENDERS, signal, np.sqrt(noise), cosine, strict=True):
                rows.append((problem, updates, contender, *(f"{x:.4f}" for x in found)))
                console.print(*rows[-1])
    write_csv(path, ("problem", "updates", "contender", "signal", "noise", "cosine"), rows)


def gradients(search: Search) -> list[np.ndarray]:
    """The gradient of every contender on one batch."""
    batch = sample(search.policy, search.settings.rules, search.settings.batch, search.rng)
    rewards = 1 / (1 + errors(evaluate(batch.tokens, search.points), search.target))
    found: list[np.ndarray] = []
    for contender in CONTENDERS:
        search.optimizer.zero_grad()
        on_logp = sample_weights(contender, rewards)[0]
        batch.weighted(on_logp, np.zeros_like(on_logp), 1.0).backward(retain_graph=True)
        found.append(np.concatenate([weights.grad.numpy().ravel() for weights in search.policy.parameters()]))
    return found


# What came out ------------------------------------------------------------------------------------------------------

CURVES = ("top", "best", "distinct", "length", "entropy", "solution_logp")


def within(rows: Sequence[Row], problem: str, contender: str, budget: int) -> list[Row]:
    """The runs that had so many expressions, or more, by seed."""
    mine = [r for r in rows if (r["problem"], r["contender"]) == (problem, contender) and r["budget"] >= budget]
    return sorted(mine, key=lambda row: row["seed"])


def taken(rows: Sequence[Row], budget: int) -> np.ndarray:
    """Expressions until recovery, infinite where it took more than the budget."""
    return np.array(
        [r["expressions"] if r["recovered"] != "no" and r["expressions"] <= budget else np.inf for r in rows]
    )


def recovery(rows: Sequence[Row], budget: int) -> dict[str, Any]:
    """Recovery rate of some runs with its interval, and the median number of expressions, None above the budget."""
    needed = taken(rows, budget)
    found, median = int(np.isfinite(needed).sum()), float(np.median(needed))
    interval = binomtest(found, len(rows)).proportion_ci(method="wilson")
    return {
        "runs": len(rows),
        "recovered": found,
        "interval": study.rounded(interval),
        "median": int(median) if np.isfinite(median) else None,
    }


def against(rows: Sequence[Row], contender: str, other: str, budget: int, problems: Sequence[str]) -> dict[str, Any]:
    """How one contender compares to another on the same problems and seeds, resampled within each problem.

    `lead` is the difference of the recovery rates. `ratio` is how many times the other's expressions it takes, a
    geometric mean; a run without recovery counts with the budget.
    """
    pairs = [[taken(within(rows, p, c, budget), budget) for c in (contender, other)] for p in problems]
    lead = study.over_seeds(*(np.isfinite(ours).astype(float) - np.isfinite(theirs) for ours, theirs in pairs))
    logs = study.over_seeds(*(np.diff(np.log(np.minimum(pair, budget))[::-1], axis=0)[0] for pair in pairs))
    return {"lead": study.rounded(lead), "ratio": study.rounded(np.exp(logs))}


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """For every number of expressions: by problem and contender, and over all problems that all contenders have."""
    summary: dict[str, Any] = {}
    for budget in sorted({row["budget"] for row in rows}):
        contenders = [c for c in CONTENDERS if any(r["contender"] == c and r["budget"] >= budget for r in rows)]
        problems = [p for p in NGUYEN if any(within(rows, p, c, budget) for c in contenders)]
        by_problem = {
            p: {c: recovery(within(rows, p, c, budget), budget) for c in contenders if within(rows, p, c, budget)}
            for p in problems
        }
        sets = {tuple(r["seed"] for r in within(rows, p, c, budget)) for p in problems for c in contenders}
        overall: dict[str, Any] = {}
        if len(sets) == 1:  # the same seeds everywhere
            for c in contenders:
                overall[c] = recovery([row for p in problems for row in within(rows, p, c, budget)], budget)
                for other in ("mean", DSR):
                    if c != other and other in contenders:
                        overall[c][f"against {other}"] = against(rows, c, other, budget, problems)
        summary[str(budget)] = {"problems": by_problem, "overall": overall}
    return summary


def odds(rules: Rules) -> dict[str, Any]:
    """For each problem the length of the solution that we know, and how improbable it is in the first batch."""
    found: dict[str, Any] = {}
    for name, problem in NGUYEN.items():
        tokens = encode(problem.solution)
        logp = follow(Policy(problem.variables), rules, tokens[None]).log_probabilities()[0]
        found[name] = {"tokens": len(tokens), "one in": float(f"{np.exp(-logp):.3g}")}
    return found


def cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    median = f" ({found['median']:,})" if found["median"] is not None else ""
    return f"{found['recovered']}/{found['runs']}{median}"


def curve_rows(asked: Options, out: Path, table: Path) -> list[Row]:
    """Those of an earlier table, and for every run whose files are here at most twenty rows of its metrics."""
    kept: dict[tuple[str, str, int], list[Row]] = {}
    for row in study.read_table(table):
        kept.setdefault(key(row), []).append(row)
    for problem in asked.curves:
        for contender in asked.contenders:
            for seed in range(asked.seeds):
                metrics = read_metrics(run_folder(out / problem, contender, seed) / METRICS)
                run_of = {"problem": problem, "contender": contender, "seed": seed}
                if metrics:
                    every = -(-len(metrics) // 20)
                    kept[problem, contender, seed] = [
                        {**run_of, "expressions": row["step"], **{name: float(f"{row[name]:.4g}") for name in CURVES}}
                        for row in metrics[::-1][::every][::-1]
                    ]
    return [row for k in sorted(kept, key=lambda k: (list(NGUYEN).index(k[0]), *k[1:])) for row in kept[k]]


def report(s: study.Study, settings: Settings, asked: Options) -> None:
    rows = list(read_rows(s.results / "runs.csv").values())
    summary = summarise(rows)
    seconds = sum(row["seconds"] for row in rows)
    for budget, found in summary.items():
        contenders = list(dict.fromkeys(c for row in found["problems"].values() for c in row))
        every = found["problems"] | ({"all": found["overall"]} if found["overall"] else {})
        cells = [[problem, *(cell(row.get(c)) for c in contenders)] for problem, row in every.items()]
        s.show(f"Recovered within {int(budget):,} expressions (median number)", ("problem", *contenders), cells)
    budget = min(row["budget"] for row in rows)
    by_problem = summary[str(budget)]["problems"]
    runs_of = {c: [within(rows, p, c, budget) for p in by_problem] for c in CONTENDERS}
    needed = {c: np.concatenate([taken(runs, budget) for runs in every]) for c, every in runs_of.items() if any(every)}
    draw_recovery(needed, by_problem, budget, s.images / "symbolic_regression.png")
    curves = curve_rows(asked, s.out, s.results / "curves.csv")
    s.write_table("curves.csv", curves, ("problem", "contender", "seed", "expressions", *CURVES))
    if hard := [p for p in asked.curves if any(row["problem"] == p for row in curves)]:
        draw_limits(curves, hard, CONTENDERS, s.images / "symbolic_regression_limits.png")
    s.write_summary(
        settings,
        **{"seconds a batch": round(settings.batch * seconds / sum(row["expressions"] for row in rows), 4)},
        **{"processor minutes": round(seconds / 60, 1)},
        **{"recovered by digits only": sum(row["recovered"] == "digits" for row in rows)},
        solutions=odds(settings.rules),
        within=summary,
    )


def check(asked: Options, batch: int) -> None:
    chosen_jobs(asked.jobs, 1)
    if asked.seeds < 1 or asked.expressions < batch:
        got = f"got {asked.seeds} and {asked.expressions}"
        raise UserError(f"--seeds must be at least 1 and --expressions at least {batch}; {got}")
    if not 0 < asked.rate < 1:
        raise UserError(f"--rate must lie between 0 and 1; got {asked.rate}")


def main(argv: list[str] | None = None) -> None:
    asked = study.parse(Options, "Recover the Nguyen functions by policy gradients on rank objectives.", argv)
    asked = replace(asked, results=asked.results or asked.out / "results")
    settings = replace(STUDY, learning_rate=asked.rate)
    with study.Study(__file__, replace(asked, images=asked.images or asked.results), argv) as s:
        check(asked, settings.batch)
        open_folder(s.results, settings, kind="study", resume=asked.resume or asked.tune or asked.compare)
        s.images.mkdir(parents=True, exist_ok=True)
        if asked.compare:
            with threadpool_limits(1):
                compare_gradients(settings, asked.problems, s.results / "gradients.csv", s.console)
        elif asked.tune:
            tune(s, asked)
        else:
            search_all(s, settings, asked, "", s.results / "runs.csv")
            report(s, settings, asked)


if __name__ == "__main__":
    main()
