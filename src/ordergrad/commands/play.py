"""The command `ordergrad play`: episodes of a trained policy, one of them in a window or a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from ordergrad.commands.options import AsJson, Quiet, options_from, print_json
from ordergrad.estimators import value
from ordergrad.runs.console import handling_errors, leaving_stdout, need_packages
from ordergrad.runs.settings import Setting, at_least, check_settings
from ordergrad.runs.tables import Table, count, number, text
from ordergrad.runs.terminal import show_table

if TYPE_CHECKING:
    from ordergrad.train.play import Episode

_NEEDED = ("torch", "gymnasium", "stable_baselines3", "safetensors")


@dataclass(frozen=True)
class PlaySettings:
    """What is played, and what is done with it."""

    objective: Annotated[
        str | None, Setting("The objective the policy was trained on.", default="the first of the run")
    ] = None
    seed: Annotated[int, Setting("The seed of the policy.", at_least(0))] = 0
    episodes: Annotated[int, Setting("How many to play and choose from.", at_least(1))] = 20
    which: Annotated[Literal["worst", "median", "best"], Setting("The episode to show, by its return.")] = "median"
    greedy: Annotated[bool, Setting("Take the likeliest action instead of drawing one as in training.")] = False
    episode_seed: Annotated[int, Setting("Seed of the episodes.", at_least(0))] = 0
    size: Annotated[int, Setting("Longer side of recorded pictures, in pixels.", at_least(16))] = 400


@options_from(PlaySettings)
def play(
    run: Annotated[Path, typer.Argument(help="The folder of a run of ordergrad train rl.", show_default=False)],
    *,
    settings: dict[str, Any],
    watch: Annotated[bool, typer.Option("--watch", help="Show the episode in a window.")] = False,
    record: Annotated[Path | None, typer.Option(help="Write the episode as .gif or .mp4.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the policy as a zip for PPO.load of Stable-Baselines3.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Play episodes of a trained policy; watch or record the worst, median or best one."""
    console = Console(highlight=False, emoji=False, quiet=quiet or as_json)
    with handling_errors(console):
        need_packages("playing", _NEEDED, "rl")
        asked = PlaySettings(**settings)
        check_settings(asked)
        with leaving_stdout(quiet or as_json):
            content = _play(asked, run, watch, record, export, console)
        if as_json:
            print_json(content)


def _play(
    settings: PlaySettings, run: Path, watch: bool, recording: Path | None, export: Path | None, console: Console
) -> dict[str, Any]:
    """Play, show, record and export; return what ``--json`` prints."""
    import ordergrad.train.play as playing
    from ordergrad.train.rl_model import export as write_policy
    from ordergrad.train.rl_model import settings_of_run, trained

    if recording is not None:
        playing.check_file(recording)
    its = settings_of_run(run)
    for mode in ["rgb_array"] * (recording is not None) + ["human"] * watch:
        playing.check_mode(its, mode)
    policy = trained(run, settings.objective, settings.seed)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("episodes", total=settings.episodes)
        how = settings.episodes, settings.episode_seed, settings.greedy
        episodes = playing.played(policy.policy, its, *how, lambda: progress.advance(bar))
    objective = settings.objective or its.objectives[0]
    title = f"{its.env_id}, {objective}, seed {settings.seed}: {len(episodes)} episodes"
    show_table(console, _table(episodes, objective, title))
    chosen = playing.choose(episodes, settings.which)
    again: list[float] = []
    if recording is not None:
        again.append(playing.record(policy.policy, its, chosen, settings.greedy, recording, settings.size))
        console.print(f"Recorded the {settings.which} episode ({chosen.total:.6g}): {escape(str(recording))}")
    if watch:
        again.append(playing.show(policy.policy, its, chosen, settings.greedy))
    for total in again:
        if total != chosen.total:
            console.print(
                f"[yellow]Played again it returned {total:.6g}: the environment does not follow from its seed[/]"
            )
    if export is not None:
        write_policy(policy, export)
        console.print(f"Exported: {escape(str(export))}")
    return {
        "run": run,
        "env_id": its.env_id,
        "objective": objective,
        "seed": settings.seed,
        "episodes": list(map(_row, episodes)),
        "chosen": _row(chosen),
        "files": [file for file in (recording, export) if file is not None],
    }


def _row(episode: "Episode") -> dict[str, Any]:
    return {"episode": episode.number, "return": episode.total, "length": episode.length}


def _table(episodes: "Sequence[Episode]", objective: str, title: str) -> Table:
    from ordergrad.train.play import choose

    returns = np.array([e.total for e in episodes if np.isfinite(e.total)])
    kinds = get_args(get_type_hints(PlaySettings)["which"])
    rows = tuple({"which": which} | _row(choose(episodes, which)) for which in kinds)
    known = [f"{name} {value(returns, name, small='shrink'):.4g}" for name in dict.fromkeys(("mean", objective))]
    caption = f"Of these episodes: {', '.join(known)}."
    if left_out := len(episodes) - len(returns):
        caption += f" {left_out} had a NaN or infinite return and are left out."
    return Table(title, (text("which", ""), count("episode"), number("return"), count("length")), rows, caption)
