"""The settings of `ordergrad score`, and those that every command that reads logs shares."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ordergrad.runs.settings import Setting, finite
from ordergrad.weights import Baseline


@dataclass(frozen=True)
class LogSettings:
    """How reward logs are read."""

    success: Annotated[float, Setting("Smallest reward that passes, for pass@k.", finite())] = 1.0
    group: Annotated[
        str | None, Setting("Column of the group: a prompt, a task; several as a+b.", default="recognised")
    ] = None
    reward: Annotated[
        str | None, Setting("Column of the reward, or a sum such as 0.5*a+b; fields as a.b.", default="recognised")
    ] = None
    where: Annotated[
        list[str] | None, Setting("Rows that count: column=value (repeatable); of one column any of its values.")
    ] = None
    lists: Annotated[
        Literal["recognised", "samples", "sum"], Setting("What a list of rewards is: samples, or parts to sum.")
    ] = "recognised"
    mask: Annotated[str | None, Setting("Column of booleans: whether a row counts.")] = None
    weight: Annotated[str | None, Setting("Column of importance weights.")] = None
    step: Annotated[
        str | None, Setting('Column of the step, part of the group; "" for none.', default="step, if there is one")
    ] = None
    ungrouped: Annotated[bool, Setting("Take all rows of a log as one group.")] = False
    skip_broken: Annotated[bool, Setting("Leave out rows that cannot be used, and count them.")] = False


@dataclass(frozen=True)
class ScoreSettings(LogSettings):
    """What `ordergrad score` computes."""

    length: Annotated[
        str | None,
        Setting('Column of the generated tokens, a number, or of the text; "" for none.', default="recognised"),
    ] = None
    format: Annotated[
        str | None, Setting('Column that is 1 where the format is right; "" for none.', default="recognised")
    ] = None
    baseline: Annotated[Baseline, Setting("Baseline of the advantages that --advantages writes.")] = "leave_one_out"
