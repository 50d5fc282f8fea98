"""The command `ordergrad advise`: from a goal to the lines that train on it."""

import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ordergrad.commands.options import options_from
from ordergrad.runs.console import handling_errors, need_packages, plain, reading_bars
from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import check_settings
from ordergrad.runs.tables import Table, decimals, number, number_text, text
from ordergrad.runs.terminal import show_table
from ordergrad.score.settings import LogSettings
from ordergrad.weights import level_note

if TYPE_CHECKING:
    from ordergrad.advise.advice import Advice, Candidate

__all__ = ["advise", "lines_for"]

_GROUP, _NOTABLE = 16, 1.1


@options_from(LogSettings)
def advise(
    rewards: Annotated[
        str,
        typer.Argument(
            help="A reward log (JSONL, CSV, Parquet), or a distribution such as bernoulli:0.05.", show_default=False
        ),
    ],
    goal: Annotated[str, typer.Option("--goal", help='In plain terms: "pass@16", "worst 5%", "robust to outliers".')],
    n: Annotated[
        int | None, typer.Option("--n", help="Group size N, at most 4096.", show_default="the log's, or 16")
    ] = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Recommend an objective, its K and its baseline for a goal, with the lines for TRL, verl and SB3."""
    console = Console(highlight=False, emoji=False)
    with handling_errors(console):
        from ordergrad.advise import advice
        from ordergrad.advise.goals import read_goal
        from ordergrad.advise.rewards import LAWS, named, sampled

        asked = LogSettings(**settings)
        check_settings(asked)
        try:
            wanted = read_goal(goal)
            found = None if Path(rewards).exists() else named(rewards)
        except ValueError as error:
            raise UserError(str(error)) from error
        if n is not None and not 2 <= n <= advice.LARGEST:
            raise UserError(f"--n must be from 2 to {advice.LARGEST}; got {n}")
        if found is None:
            need_packages("reading logs", ("polars",), "score")
            from ordergrad.score.opening import open_logs

            try:
                [log] = open_logs([rewards], asked)
            except UserError as error:
                hint = "" if Path(rewards).exists() else f". Distributions are {LAWS}"
                raise UserError(f"{error}{hint}") from error
            with reading_bars([log.name], console) as [bar]:
                threshold = asked.success if wanted.passes else None
                found = sampled(log, success=threshold, skip_broken=asked.skip_broken, report=bar)
        elif wanted.passes:
            found = found.passed(asked.success)
        size = n or min(max(found.size or _GROUP, 2), advice.LARGEST)
        with console.status("weighing up"):
            result = advice.advise(wanted, found, size)
        _show(console, result)


def lines_for(objective: str, n: int) -> dict[str, str]:
    """Return what to write for TRL, verl and Stable-Baselines3, with the baseline ``leave_one_out``.

    Example:
        >>> lines_for("top:2@4", 8)["SB3"]
        'OrderGradPPO("MlpPolicy", env, objective="top:2@4", min_episodes=8)'
    """
    setting = f"+algorithm.ordergrad.objective={objective}"
    return {
        "TRL": f'OrderGradGRPOTrainer(model, reward_funcs=reward, train_dataset=data, objective="{objective}",\n'
        f'    args=GRPOConfig("run", num_generations={n}, per_device_train_batch_size={n}, loss_type="dr_grpo"))',
        "verl": f"algorithm.adv_estimator=ordergrad {shlex.quote(setting) if '*' in setting else setting} \\\n"
        f"    actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum actor_rollout_ref.rollout.n={n}",
        "SB3": f'OrderGradPPO("MlpPolicy", env, objective="{objective}", min_episodes={n})',
    }


def _show(console: Console, advice: "Advice") -> None:
    goal = advice.goal
    value = number_text(_clean(advice, advice.value))
    console.print(f"[bold]Goal[/]: {plain(goal.text)} ({goal.target}), here {value}")
    passes = ", rewards as passed or not" if goal.passes else ""
    console.print(f"[bold]Rewards[/]: {plain(advice.rewards.text)}{passes}; groups of N = {advice.n}")
    note = level_note(goal.target, advice.n)
    if note:
        console.print(f"[yellow]{note[0].upper()}{note[1:]}: a larger group would see more of the tail.[/]")
    show_table(console, _table(advice))
    if advice.unsteady:
        console.print(
            "[yellow]A few simulated groups make up much of the noise: the tails are so heavy that the ratio may be "
            "smaller still.[/]"
        )
    _recommend(console, advice)


def _table(advice: "Advice") -> Table:
    """Return the candidates, one a row."""
    how = f"from {advice.simulated:,} simulated groups" if advice.simulated else "exact"
    noise = f"of one group's gradient along the goal's, √B times as much with B groups ({how})"
    columns = (
        text("objective"),
        text("baseline"),
        number("value"),
        number("bias", note="value less the goal's", digits=2, sign="+"),
        decimals("direction", note="cosine of its gradient with the goal's, 1 is the same", digits=3),
        number("snr", "signal/noise", noise, digits=3),
    )
    rows = tuple(asdict(c) | {"value": _clean(advice, c.value), "bias": _clean(advice, c.bias)} for c in advice.table)
    chosen = None if advice.best is None else advice.table.index(advice.best)
    return Table("", columns, rows, chosen=chosen)


def _recommend(console: Console, advice: "Advice") -> None:
    from ordergrad.advise.advice import FAITHFUL
    from ordergrad.advise.goals import next_group

    best = advice.best
    if best is None and all(c.objective == "mean" and not math.isnan(c.snr) for c in advice.table):
        enough = next_group(advice.goal, advice.n)
        console.print(
            f"\n[yellow]Groups of {advice.n} are too small for this goal: only the mean fits them, and it points "
            f"elsewhere (direction {advice.table[0].direction:.2f})."
            f"{f' Use --n {enough} or more.' if enough else ''}[/]"
        )
        return
    if best is None:
        console.print(
            "\n[yellow]No objective has a gradient here: the rewards of a group do not differ where the goal looks. "
            "With graded rewards a log needs more of them per prompt to show a tail.[/]"
        )
        return
    console.print(
        f"\n[bold]Recommended[/]: [bold green]{plain(best.objective)}[/] in groups of {advice.n}{_why(advice)}"
    )
    if best.direction < FAITHFUL:
        console.print(
            f"[yellow]Even this is not close to the goal (direction {best.direction:.2f}, where {FAITHFUL} would be): "
            "a larger group allows a larger K; compare with --n.[/]"
        )
    better = [c for c in advice.table if c.baseline == "k_minus_one" and c.snr > _NOTABLE * best.snr]
    if better and max(better, key=_snr).direction >= min(FAITHFUL, best.direction):
        top = max(better, key=_snr)
        console.print(
            f"In a loop of your own, baseline k_minus_one does better: "
            f'og.advantages(rewards, "{plain(top.objective)}", baseline="k_minus_one") has signal/noise {top.snr:.3g}.'
        )
    for name, line in lines_for(best.objective, advice.n).items():
        console.print(f"\n[bold]{name}[/]")
        console.print(line, markup=False, soft_wrap=True)


def _why(advice: "Advice") -> str:
    best = advice.best
    assert best is not None
    own = advice.table[0]
    reason = f", baseline leave_one_out, direction {best.direction:.3f}"
    if own is best or not own.snr > 0:
        return reason
    ratio = (best.snr / own.snr) ** 2
    return f"{reason}; {own.objective} would need {ratio:.2g} times as many groups for the same signal/noise"


def _clean(advice: "Advice", value: float | None) -> float | None:
    """Return a value, or 0 instead of one that is only rounding."""
    return 0.0 if value is not None and abs(value) < 1e-9 * (advice.scale or 1) else value


def _snr(candidate: "Candidate") -> float:
    return candidate.snr
