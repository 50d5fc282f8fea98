"""`og.value` as a criterion of pfhedge, in its market, network and training loop; the peer is its own criterion.

A call at the money, 30 days, proportional costs of 0.5%. pfhedge's `Hedger` has its default network, which sees the log
moneyness, the time left, the volatility and the last hedge. Both criteria get the same initial weights and the same
paths, 64 an update, and the better of two rates on two other seeds.

    pip install --no-deps pfhedge
    python experiments/hedging_pfhedge.py --results experiments/results/hedging_pfhedge

Ctrl-C stops, `--resume` goes on. Results and what they mean: docs/studies/hedging.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import study
import torch
from torch import Tensor

import ordergrad as og

try:
    from pfhedge.instruments import BrownianStock, EuropeanOption
    from pfhedge.nn import ExpectedShortfall, Hedger, MultiLayerPerceptron
    from pfhedge.nn.modules.loss import HedgeLoss
except ImportError as error:
    raise SystemExit(f"Error: the study needs: pip install --no-deps pfhedge ({error})") from None

MEASURES = ("cvar:0.05", "cvar:0.01", "mean")
FEATURES = ["log_moneyness", "expiry_time", "volatility", "prev_hedge"]


class Tail(HedgeLoss):
    """Minus the value of an objective of ranks, as a criterion of pfhedge."""

    def __init__(self, objective: str) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, input: Tensor, target: Tensor | float = 0.0) -> Tensor:
        return -og.value(input - target, self.objective, axis=0)

    def cash(self, input: Tensor, target: Tensor | float = 0.0) -> Tensor:
        return -self(input, target)


CRITERIA = {"cvar:0.05": partial(Tail, "cvar:0.05"), "ExpectedShortfall(0.05)": partial(ExpectedShortfall, 0.05)}


@dataclass(frozen=True)
class Settings:
    """The market, and how long the network is trained."""

    days: int = 30
    cost: float = 0.005
    paths: int = 64
    steps: int = 200
    rates: tuple[float, ...] = (0.003, 0.01)
    seeds: int = 5
    tuning_seeds: tuple[int, ...] = (100, 101)
    fresh: int = 50_000


def trained(contender: str, rate: float, seed: int, settings: Settings) -> study.Record:
    """Train a hedger and return the measures of its profit and loss on fresh paths, in percent of the spot."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    option = EuropeanOption(BrownianStock(cost=settings.cost), maturity=settings.days / 250)
    model = MultiLayerPerceptron(in_features=len(FEATURES))
    hedger = Hedger(model, FEATURES, criterion=CRITERIA[contender]())
    optimizer = torch.optim.Adam(hedger.parameters(), lr=rate)
    hedger.fit(
        option, n_epochs=settings.steps, n_paths=settings.paths, optimizer=optimizer, verbose=False, validation=False
    )
    torch.manual_seed(1_000_003 + seed)
    with torch.no_grad():
        option.simulate(n_paths=settings.fresh)
        profits = 100 * hedger.compute_pl(option).double()
    return {name: float(og.value(profits, name)) for name in MEASURES}


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/hedging_pfhedge")


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Train hedges with criteria in pfhedge.", argv)
    settings = settings or Settings()
    make = partial(trained, settings=settings)
    with study.Study(__file__, options, argv) as s:
        s.open(settings)
        tries = study.grid(contender=CRITERIA, rate=settings.rates, seed=settings.tuning_seeds)
        tuning = s.computed("tuning.jsonl", tries, make)
        best = {
            c: max(settings.rates, key=lambda r: study.column(tuning, "cvar:0.05", contender=c, rate=r).mean())
            for c in CRITERIA
        }
        tasks = [
            {"contender": c, "rate": rate, "seed": seed} for c, rate in best.items() for seed in range(settings.seeds)
        ]
        runs = s.computed("runs.jsonl", tasks, make)
    ours, theirs = (study.column(runs, "cvar:0.05", contender=c) for c in CRITERIA)
    table = study.intervals(runs, ("contender", "rate"), MEASURES)
    for row in table:
        s.console.print("{contender} {measure}: {value:.3f} [{low:.3f}, {high:.3f}]".format(**row))
    for name, rows in (("tuning", tuning), ("runs", runs), ("measures", table)):
        s.write_table(f"{name}.csv", rows)
    s.write_summary(settings, chosen=best, lead=study.paired(ours, theirs)._asdict())


if __name__ == "__main__":
    main()
