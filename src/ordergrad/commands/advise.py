"""The command `ordergrad advise`: from a goal to the lines that train on it."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from ordergrad.commands.options import AsJson, options_from, print_json
from ordergrad.runs.console import handling_errors, need_packages, reading_bars
from ordergrad.runs.errors import UserError
from ordergrad.runs.settings import Setting, check_settings
from ordergrad.runs.tables import Table, decimals, number, number_text, text
from ordergrad.runs.terminal import show_table
from ordergrad.score.settings import LogSettings
from ordergrad.weights import level_note

if TYPE_CHECKING:
    from ordergrad.advise.advice import Advice
    from ordergrad.advise.rewards import Rewards
    from ordergrad.score.opening import Log

_GROUP, _NOTABLE, _FEW = 16, 1.1, 0.3
_TITLES = {
    "trl": "TRL",
    "verl": "verl",
    "skyrl": "SkyRL",
    "sb3": "Stable-Baselines3",
    "loop": "In a loop of your own",
}
_TOOLS = {"TRL": "trl", "verl": "verl", "SkyRL": "skyrl", "Stable-Baselines3": "sb3", "ordergrad train rl": "sb3"}


@dataclass(frozen=True)
class AdviseSettings(LogSettings):
    """What `ordergrad advise` asks for besides the goal."""

    trainer: Annotated[
        Literal["recognised", "trl", "verl", "skyrl", "sb3", "loop"], Setting("Whose lines to print.")
    ] = "recognised"


@options_from(AdviseSettings)
def advise(
    rewards: Annotated[
        str,
        typer.Argument(help="A reward log of any kind, or a distribution such as bernoulli:0.05.", show_default=False),
    ],
    goal: Annotated[
        str,
        typer.Option(
            "--goal", help='In your words: "pass@16", "worst 5%", "reliability over 8 runs", "less variance".'
        ),
    ],
    n: Annotated[
        int | None, typer.Option("--n", help="Group size N, at most 4096.", show_default="the log's, or 16")
    ] = None,
    *,
    settings: dict[str, Any],
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the objective.")] = False,
) -> None:
    """Recommend an objective, its K and its baseline for a goal, with the lines for your trainer."""
    console = Console(highlight=False, emoji=False, quiet=quiet or as_json)
    with handling_errors(console):
        from ordergrad.advise import advice
        from ordergrad.advise.rewards import LAWS, named
        from ordergrad.advise.words import read_goal

        asked = AdviseSettings(**settings)
        check_settings(asked)
        try:
            wanted = read_goal(goal)
            found = None if Path(rewards).exists() else named(rewards)
        except ValueError as error:
            raise UserError(str(error)) from error
        if n is not None and not 2 <= n <= advice.LARGEST:
            raise UserError(f"--n must be from 2 to {advice.LARGEST}; got {n}")
        success = asked.success if wanted.threshold is None else wanted.threshold
        tool, graded = "", None
        if found is None:
            need_packages("reading logs", ("polars",), "score")
            from ordergrad.score.opening import open_logs

            try:
                log, *others = open_logs([rewards], asked)
            except UserError as error:
                hint = "" if Path(rewards).exists() else f". Distributions are {LAWS}"
                raise UserError(f"{error}{hint}") from error
            if others:
                console.print(f"[yellow]{escape(rewards)} holds {1 + len(others)} logs; this is {escape(log.name)}.[/]")
            found, graded = _read(log, wanted.passes, success, asked.skip_broken, console)
            tool = log.tool
            console.print(escape(log.read_as), style="dim")
        elif wanted.passes:
            graded, found = (None if found.binary else found), found.passed(success)
        size = n or min(found.size if found.size and found.size > 1 else _GROUP, advice.LARGEST)
        with console.status("weighing up"):
            result = advice.advise(wanted, found, size)
            content = _content(result, graded, success, tool, asked.trainer)
        _show(console, result, content)
        if as_json:
            print_json(content)
        elif quiet and content["recommended"] is not None:
            typer.echo(content["recommended"]["objective"])


def _read(
    log: "Log", passes: bool, success: float, skip_broken: bool, console: Console
) -> "tuple[Rewards, Rewards | None]":
    """Return the rewards of a log, as passed or not where only that counts, and then the graded ones if they are."""
    from ordergrad.advise.rewards import sampled

    with reading_bars([log.name], console) as [bar]:
        found = sampled(log, skip_broken=skip_broken, report=bar)
    if not passes or (found.binary and 0 < success <= 1):
        return found, None
    with reading_bars([log.name], console) as [bar]:
        return sampled(log, success=success, skip_broken=skip_broken, report=bar), found


def lines_for(objective: str, n: int) -> dict[str, str]:
    """Return what to write for each trainer, with the baseline ``leave_one_out``.

    Example:
        >>> lines_for("top:2@4", 8)["sb3"]
        'OrderGradPPO("MlpPolicy", env, objective="top:2@4", min_episodes=8)'
    """
    verl, skyrl = (f"{prefix}algorithm.ordergrad.objective={objective}" for prefix in ("+", "trainer."))
    verl, skyrl = (shlex.quote(setting) if "*" in setting else setting for setting in (verl, skyrl))
    return {
        "trl": f'OrderGradGRPOTrainer(model, reward_funcs=reward, train_dataset=data, objective="{objective}",\n'
        f'    args=GRPOConfig("run", num_generations={n}, per_device_train_batch_size={n}, loss_type="dr_grpo"))',
        "verl": f"algorithm.adv_estimator=ordergrad {verl} \\\n"
        f"    actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum actor_rollout_ref.rollout.n={n}",
        "skyrl": f"trainer.override_entrypoint=ordergrad.adapters.skyrl {skyrl} \\\n"
        f"    generator.n_samples_per_prompt={n}",
        "sb3": f'OrderGradPPO("MlpPolicy", env, objective="{objective}", min_episodes={n})',
        "loop": f'advantages = og.advantages(rewards, "{objective}")  # rewards: (prompts, {n})\n'
        "loss = -(advantages * logp).mean()",
    }


def _content(advice: "Advice", graded: "Rewards | None", success: float, tool: str, trainer: str) -> dict[str, Any]:
    """Return the advice as plain values: what ``--json`` prints."""
    best, goal = advice.best, advice.goal
    known = next((name for prefix, name in _TOOLS.items() if tool.startswith(prefix)), None)
    chosen = trainer if trainer != "recognised" else known or "loop"
    lines = None
    if best is not None:
        lines = lines_for(best.objective, advice.n)[chosen]
        if graded is not None:
            in_python = chosen in ("trl", "loop", "sb3")
            passed = f"float(r >= {success:g})" if in_python else f"1 if score >= {success:g} else 0"
            lines = f"# on the reward {passed}\n{lines}"
    return {
        "goal": {"text": goal.text, "target": goal.target, "value": advice.value, "passes": goal.passes},
        "rewards": advice.rewards.text,
        "n": advice.n,
        "candidates": [asdict(candidate) for candidate in advice.table],
        "recommended": None if best is None else asdict(best),
        "notes": _notes(advice, graded, success),
        "trainer": chosen,
        "trainer_known": trainer != "recognised" or known is not None,
        "lines": lines,
    }


def _notes(advice: "Advice", graded: "Rewards | None", success: float) -> list[str]:
    """Return what else to know, and what to change."""
    from ordergrad.advise.advice import FAITHFUL, direction_on, enough, mixed
    from ordergrad.advise.goals import next_group

    best, goal, n = advice.best, advice.goal, advice.n
    notes: list[str] = []
    if best is None and all(c.objective == "mean" and not math.isnan(c.snr) for c in advice.table):
        larger = next_group(goal, n)
        return [
            f"Groups of {n} are too small for this goal: only the mean fits them, and it points elsewhere (direction "
            f"{advice.table[0].direction:.2f}).{f' Use --n {larger} or more.' if larger else ''}"
        ]
    if best is None:
        notes.append(
            "No objective has a gradient here: the rewards of a group do not differ where the goal looks. With graded "
            "rewards a log needs more of them per prompt to show a tail."
        )
    if advice.rewards.size == 1:
        notes.append(
            "The log has one try per prompt, so how prompts differ is not known and all are taken to be alike: "
            "directions are too high. Several tries for each would show it."
        )
    if best is not None and graded is not None:
        raw = direction_on(graded, success, best.objective, goal)
        off = "" if math.isnan(raw) else f": on the graded ones {best.objective} has a direction of {raw:.2f}"
        notes.append(f"Train on rewards of 0 and 1, whether the reward is at least {success:g}{off}.")
    if best is not None and best.direction < FAITHFUL:
        size = enough(goal, advice.rewards, n)
        better = f"groups of {size} would be" if size else "no group of up to 4,096 is"
        notes.append(
            f"Even this is not close to the goal (direction {best.direction:.2f}): {better} at {FAITHFUL}; compare "
            "with --n."
        )
    if goal.passes and advice.rewards.binary:
        never, some, always = mixed(advice.rewards, n)
        if some < _FEW:
            hard = never > always
            notes.append(
                f"Only {some:.0%} of the groups of {n} hold both outcomes: {never:.0%} have no success and "
                f"{always:.0%} nothing else. {'Easier' if hard else 'Harder'} prompts would teach more than any "
                f"objective{', or larger groups' if hard else ''}."
            )
    if best is not None:
        better = [c for c in advice.table if c.baseline == "k_minus_one" and c.snr > _NOTABLE * best.snr]
        top = max(better, key=lambda candidate: candidate.snr, default=None)
        if top is not None and top.direction >= min(FAITHFUL, best.direction):
            notes.append(
                "In a loop of your own, baseline k_minus_one does better: og.advantages(rewards, "
                f'"{top.objective}", baseline="k_minus_one") has signal/noise {top.snr:.3g}.'
            )
    return notes


def _show(console: Console, advice: "Advice", content: Mapping[str, Any]) -> None:
    goal, best = advice.goal, advice.best
    value = number_text(_clean(advice, advice.value))
    console.print(f"[bold]Goal[/]: {escape(goal.text)} ({goal.target}), here {value}")
    passes = ", rewards as passed or not" if goal.passes else ""
    console.print(f"[bold]Rewards[/]: {escape(advice.rewards.text)}{passes}; groups of N = {advice.n}")
    note = level_note(goal.target, advice.n)
    if note:
        console.print(f"[yellow]{note[0].upper()}{note[1:]}: a larger group would see more of the tail.[/]")
    show_table(console, _table(advice))
    if advice.unsteady:
        console.print(
            "[yellow]A few simulated groups make up much of the noise: the tails are so heavy that the ratio may be "
            "smaller still.[/]"
        )
    if best is not None:
        console.print(
            f"\n[bold]Recommended[/]: [bold green]{escape(best.objective)}[/] in groups of {advice.n}{_why(advice)}"
        )
    for note in content["notes"]:
        console.print(escape(note), style="yellow")
    if content["lines"] is not None:
        console.print(f"\n[bold]{_TITLES[content['trainer']]}[/]")
        console.print(content["lines"], markup=False, soft_wrap=True)
        if not content["trainer_known"]:
            console.print("Which trainer? --trainer trl, verl, skyrl or sb3 prints its lines.", style="dim")


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
