"""Hedging a sold call under transaction costs: which criterion trains the policy with the best tail.

A European call is sold at its Black-Scholes price and hedged on 30 days by a small network that sees the moneyness, the
time left and its current holding. Holding costs: what is traded today depends on what was held yesterday, so the policy
is path-dependent and has no closed form. It is trained by the pathwise gradient of a criterion of the profit and loss
of a batch of paths. Same network, small batches, steps and rates tried for all:

- `cvar:0.05` through `og.value`: the sample's CVaR with a fractional boundary weight, and `cvar:0.05@40`;
- the same without OrderGrad: sort, and average the worst whole number of paths;
- the expected shortfall of the package pfhedge;
- Rockafellar and Uryasev's bound with a trained threshold;
- entropic risk, and the mean less a multiple of the standard deviation.

References without training: no hedge, the Black-Scholes delta, Leland's delta.

    pip install --no-deps pfhedge
    python experiments/hedging.py --results experiments/results/hedging --images docs/images

Ctrl-C stops, `--resume` goes on. Needs `pip install ".[studies]"`. Results and what they mean:
docs/studies/hedging.md.

References:
    Buehler et al. (2019). Deep hedging. Quantitative Finance 19.
    Rockafellar and Uryasev (2000). Optimization of conditional value-at-risk. Journal of Risk 2.
    Leland (1985). Option pricing and replication with transactions costs. Journal of Finance 40.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import study
import torch
from torch import Tensor, nn

import ordergrad as og
from ordergrad.runs.plots import COLOURS, new_figure, save

MEASURES = ("cvar:0.05", "cvar:0.01", "mean", "std")
Policy = Callable[[Tensor], Tensor]  # log prices (days + 1, ...) -> holdings (days, ...), without looking ahead


@dataclass(frozen=True)
class Settings:
    """The market, the network and how long it is trained."""

    days: int = 30
    years: float = 30 / 252
    volatility: float = 0.2
    cost: float = 0.005  # of what is traded, the last sale too
    level: float = 0.05
    batches: tuple[int, ...] = (64, 256)  # paths a step
    tested: tuple[int, ...] = (64,)  # the others are tuned only
    steps: int = 200
    hidden: int = 32
    rates: tuple[float, ...] = (0.02, 0.06)
    seeds: int = 5
    tuning_seeds: int = 2
    tuning_paths: int = 20_000
    paths: int = 50_000


# The market ---------------------------------------------------------------------------------------------------------


def simulate(settings: Settings, generator: torch.Generator, paths: int) -> Tensor:
    """Return log prices of a geometric Brownian motion without drift, shape (days + 1, paths), from 0."""
    spread = settings.volatility * math.sqrt(settings.years / settings.days)
    moves = spread * torch.randn(settings.days, paths, generator=generator) - spread**2 / 2
    return torch.cat([torch.zeros(1, paths), moves.cumsum(0)])


def delta(settings: Settings, volatility: float) -> Policy:
    """Return the policy that holds the Black-Scholes delta at a volatility; the strike is 1."""

    def hold(log_prices: Tensor) -> Tensor:
        left = settings.years * (1 - torch.arange(settings.days) / settings.days)
        spread = (volatility * left.sqrt()).reshape(-1, *[1] * (log_prices.ndim - 1))
        return torch.special.ndtr(log_prices[:-1] / spread + spread / 2)

    return hold


def price(settings: Settings) -> float:
    """Return the Black-Scholes price of the call at the money, as a share of the spot."""
    spread = torch.tensor(settings.volatility * math.sqrt(settings.years), dtype=torch.float64)
    return float(2 * torch.special.ndtr(spread / 2) - 1)


def leland(settings: Settings) -> float:
    """Return Leland's volatility: the costs of rehedging every day, as if they were variance."""
    spread = settings.volatility * math.sqrt(settings.years / settings.days)
    return settings.volatility * math.sqrt(1 + math.sqrt(2 / math.pi) * 2 * settings.cost / spread)


def profit(policy: Policy, log_prices: Tensor, settings: Settings) -> Tensor:
    """Return the profit and loss of each path in percent of the first price: premium, gains, costs and payoff."""
    prices, holdings = log_prices.exp(), policy(log_prices)
    nothing = torch.zeros_like(holdings[:1])
    traded = torch.cat([nothing, holdings, nothing]).diff(dim=0).abs()
    gains = (holdings * prices.diff(dim=0)).sum(0) - settings.cost * (traded * prices).sum(0)
    return 100 * (price(settings) + gains - (prices[-1] - 1).clamp(min=0))


class Networks(nn.Module):
    """One network a seed, all run at once; the weights of a seed do not depend on how many there are."""

    def __init__(self, seeds: Sequence[int], settings: Settings) -> None:
        super().__init__()
        self.days, self.unit = settings.days, settings.volatility * math.sqrt(settings.years)
        hidden, streams = settings.hidden, [stream(seed, "weights") for seed in seeds]
        self.seen = nn.Parameter(torch.stack([torch.randn(2, hidden, generator=g) for g in streams]))
        self.held = nn.Parameter(torch.stack([torch.randn(1, hidden, generator=g) for g in streams]))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, hidden))
        self.out = nn.Parameter(torch.stack([torch.randn(hidden, 1, generator=g) / hidden**0.5 for g in streams]))
        self.last = nn.Parameter(torch.zeros(len(seeds), 1, 1))

    def forward(self, log_prices: Tensor) -> Tensor:
        """Return the holdings, between 0 and 1, from log prices (days + 1, seeds, paths) before each day's move."""
        moneyness = log_prices[:-1] / self.unit
        left = (1 - 2 * torch.arange(self.days) / self.days)[:, None, None].expand_as(moneyness)
        seen = (torch.stack([moneyness, left], dim=-1) @ self.seen + self.bias).unbind()
        holding, holdings = torch.zeros_like(moneyness[0])[..., None], list[Tensor]()
        for now in seen:
            holding = torch.baddbmm(self.last, torch.addcmul(now, holding, self.held).tanh(), self.out).sigmoid()
            holdings.append(holding)
        return torch.stack(holdings)[..., 0]


def stream(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + {"weights": 0, "training": 1, "evaluation": 2}[purpose])


# Criteria -----------------------------------------------------------------------------------------------------------

Criterion = Callable[[Tensor], Tensor]  # profits (seeds, paths) -> what is to be large (seeds,)


class Threshold(nn.Module):
    """Rockafellar and Uryasev's bound on CVaR; the threshold learns `speed` times as fast as the network."""

    def __init__(self, level: float, first: Tensor, speed: float) -> None:
        super().__init__()
        self.level, self.speed, self.scaled = level, speed, nn.Parameter(first / speed)

    def forward(self, profits: Tensor) -> Tensor:
        threshold = self.scaled * self.speed
        return threshold - (threshold[:, None] - profits).clamp(min=0).mean(-1) / self.level


def worst(profits: Tensor, level: float) -> Tensor:
    """Return the mean of the worst paths, the share rounded to a whole number."""
    count = max(1, round(level * profits.shape[-1]))
    return profits.sort(-1).values[..., :count].mean(-1)


def entropic(profits: Tensor, aversion: float) -> Tensor:
    return (math.log(profits.shape[-1]) - torch.logsumexp(-aversion * profits, -1)) / aversion


def mean_deviation(profits: Tensor, aversion: float) -> Tensor:
    return profits.mean(-1) - aversion * profits.std(-1)


def pfhedge_shortfall(level: float) -> Criterion:
    """Return the criterion of pfhedge, which expects paths first and returns what is to be small."""
    try:
        from pfhedge.nn import ExpectedShortfall  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(f"Error: the contender pfhedge needs: pip install --no-deps pfhedge ({error})") from None
    shortfall = ExpectedShortfall(level)
    return lambda profits: -shortfall(profits.T)


CONTENDERS: dict[str, tuple[float, ...]] = {  # the values of its own parameter that are tried
    "cvar:0.05": (0,),
    "cvar:0.05@40": (0,),
    "sort": (0,),
    "pfhedge": (0,),
    "threshold": (1, 10),
    "entropic": (1, 2, 4),
    "mean-std": (1, 2),
}


def criterion_of(contender: str, own: float, settings: Settings, first: Tensor) -> Criterion:
    """Return a criterion; its own parameter is risk aversion, or how much faster than the network the threshold learns.

    The threshold starts at the quantile of the first batch's profits before training.
    """
    match contender:
        case "sort":
            return partial(worst, level=settings.level)
        case "pfhedge":
            return pfhedge_shortfall(settings.level)
        case "threshold":
            return Threshold(settings.level, first.quantile(settings.level, dim=-1), own)
        case "entropic":
            return partial(entropic, aversion=own)
        case "mean-std":
            return partial(mean_deviation, aversion=own)
        case _:
            return lambda profits: og.value(profits, contender)


# Training -----------------------------------------------------------------------------------------------------------


def train(contender: str, batch: int, rate: float, own: float, seeds: Sequence[int], settings: Settings) -> Networks:
    """Train one network a seed on one batch of fresh paths a step, with Adam; the rate falls linearly to 0."""
    networks = Networks(seeds, settings)
    streams = [stream(seed, "training") for seed in seeds]

    def profits() -> Tensor:
        return profit(networks, torch.stack([simulate(settings, s, batch) for s in streams], dim=1), settings)

    with torch.no_grad():
        criterion = criterion_of(contender, own, settings, profits())
    trained = [*networks.parameters(), *(criterion.parameters() if isinstance(criterion, nn.Module) else ())]
    optimizer = torch.optim.Adam(trained, lr=rate)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / settings.steps)
        optimizer.zero_grad()
        (-criterion(profits()).sum()).backward()
        optimizer.step()
    return networks


def measured(policy: Policy, copies: int, paths: int, seed: int, settings: Settings) -> list[dict[str, float]]:
    """Return the measures of each of several policies on the same fresh paths."""
    generator, parts = stream(seed, "evaluation"), max(1, paths // 2_000)
    with torch.no_grad():
        drawn = [simulate(settings, generator, paths // parts)[:, None].expand(-1, copies, -1) for _ in range(parts)]
        profits = torch.cat([profit(policy, log_prices, settings) for log_prices in drawn], dim=-1).double()
    found = [*(og.value(profits, name) for name in MEASURES[:3]), profits.std(-1)]
    return [dict(zip(MEASURES, map(float, row), strict=True)) for row in zip(*found, strict=True)]


def trained(
    contender: str, batch: int, rate: float, own: float, part: str, settings: Settings
) -> dict[str, list[dict[str, float]]]:
    """Train all seeds of a part and measure them; tuning has seeds and paths of its own."""
    torch.set_num_threads(1)
    tuning = part == "tuning"
    seeds = range(100, 100 + settings.tuning_seeds) if tuning else range(settings.seeds)
    networks = train(contender, batch, rate, own, seeds, settings)
    paths, seed = (settings.tuning_paths, 201) if tuning else (settings.paths, 200)
    return {"measures": measured(networks, len(seeds), paths, seed, settings)}


def references(settings: Settings) -> dict[str, dict[str, float]]:
    """Return the measures of the policies that are not trained."""
    policies: dict[str, Policy] = {
        "no hedge": lambda log_prices: torch.zeros_like(log_prices[:-1]),
        "delta": delta(settings, settings.volatility),
        "Leland": delta(settings, leland(settings)),
    }
    return {name: measured(policy, 1, settings.paths, 200, settings)[0] for name, policy in policies.items()}


# Results ------------------------------------------------------------------------------------------------------------


def chosen(tuning: Sequence[study.Record], contender: str, batch: int) -> tuple[float, float]:
    """Return the rate and the own parameter with the best mean CVaR over the tuning seeds."""
    mine = [r for r in tuning if (r["contender"], r["batch"]) == (contender, batch)]
    best = max(mine, key=lambda r: sum(m["cvar:0.05"] for m in r["measures"]))
    return best["rate"], best["own"]


def leads(runs: Sequence[study.Record]) -> list[study.Record]:
    """Return how far `cvar:0.05` is ahead of each other contender, seed by seed; above 0 it is better."""
    rows: list[study.Record] = []
    for batch, contender in dict.fromkeys((r["batch"], r["contender"]) for r in runs):
        for name in MEASURES[:3] if contender != "cvar:0.05" else ():
            found = study.lead_of(runs, name, "contender", "cvar:0.05", contender, batch=batch)
            rows.append({"batch": batch, "against": contender, "measure": name, **found})
    return rows


def cells(table: Sequence[study.Record]) -> Iterator[Sequence[Any]]:
    for batch, contender in dict.fromkeys((r["batch"], r["contender"]) for r in table):
        mine = [r for r in table if (r["batch"], r["contender"]) == (batch, contender)]
        yield batch, contender, *("{value:.3f} [{low:.3f}, {high:.3f}]".format(**r) for r in mine)


def draw(runs: Sequence[study.Record], known: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the CVaR of every contender: seeds, mean and interval; the deltas as lines."""
    batches = list(dict.fromkeys(r["batch"] for r in runs))
    figure, axes = new_figure(len(batches), "A hedged call after costs")
    names = list(dict.fromkeys(r["contender"] for r in runs))
    for axis, batch in zip(axes, batches, strict=True):
        for place, name in enumerate(names):
            values = study.column(runs, "cvar:0.05", batch=batch, contender=name)
            found, colour = study.over_seeds(values), COLOURS[place % len(COLOURS)]
            axis.scatter(values, [place] * len(values), color=colour, alpha=0.4, s=14)
            apart = [[found.value - found.low], [found.high - found.value]]
            axis.errorbar(found.value, place, xerr=apart, fmt="o", color=colour, capsize=4)
        for name, dash in (("delta", ":"), ("Leland", "--")):
            axis.axvline(known[name]["cvar:0.05"], color="#777777", linestyle=dash, label=f"{name}, not trained")
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set(xlabel="CVaR 5% of profits, percent of the spot", title=f"{batch} paths a step")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, path)


@dataclass(frozen=True)
class Options(study.Options):
    out: Path = Path("runs/hedging")
    contenders: tuple[str, ...] = field(
        default=tuple(CONTENDERS), metadata={"help": "what to train on [all]", "choices": tuple(CONTENDERS)}
    )


def main(argv: list[str] | None = None, settings: Settings | None = None) -> None:
    options = study.parse(Options, "Train hedges of a call under transaction costs on several criteria.", argv)
    settings = settings or Settings()
    if "pfhedge" in options.contenders:
        pfhedge_shortfall(settings.level)
    with study.Study(__file__, options, argv) as s:
        s.open({**study.as_dict(settings), "contenders": options.contenders})
        make = partial(trained, settings=settings)
        pairs = [(batch, name) for batch in settings.batches for name in options.contenders]
        tasks: list[dict[str, Any]] = [
            {"contender": name, "batch": batch, "rate": rate, "own": own, "part": "tuning"}
            for batch, name in pairs
            for rate in settings.rates
            for own in CONTENDERS[name]
        ]
        tuning = s.computed("tuning.jsonl", tasks, make)
        pairs = [(batch, name) for batch, name in pairs if batch in settings.tested]
        best = {pair: chosen(tuning, pair[1], pair[0]) for pair in pairs}
        tasks = [
            {"contender": name, "batch": batch, "rate": rate, "own": own, "part": "test"}
            for (batch, name), (rate, own) in best.items()
        ]
        records = s.computed("test.jsonl", tasks, make)
        known = references(settings)
    runs = [
        {"batch": r["batch"], "contender": r["contender"], "seed": seed, **measures}
        for r in records
        for seed, measures in enumerate(r["measures"])
    ]
    table = study.intervals(runs, ("batch", "contender"), MEASURES)
    s.show("Profit and loss in percent of the spot", ("paths a step", "trained on", *MEASURES), cells(table), left=2)
    s.write_table("runs.csv", runs)
    s.write_table("measures.csv", table)
    s.write_table("leads.csv", leads(runs))
    names = ("batch", "contender", "rate", "own")
    tails = [sum(m["cvar:0.05"] for m in r["measures"]) / len(r["measures"]) for r in tuning]
    tried = [{name: r[name] for name in names} | {"cvar:0.05": x} for r, x in zip(tuning, tails, strict=True)]
    s.write_table("tuning.csv", tried)
    s.write_summary(
        settings,
        premium=round(100 * price(settings), 4),
        references={name: {k: round(x, 4) for k, x in row.items()} for name, row in known.items()},
        chosen=[{name: task[name] for name in names} for task in tasks],
    )
    draw(runs, known, s.images / "hedging.png")


if __name__ == "__main__":
    main()
