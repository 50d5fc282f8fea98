"""Logs of the size of a cluster: the numbers of `ordergrad score` through Ray Data.

```py
import ray
from ordergrad.score.ray_data import score_dataset

log = ray.data.read_parquet("s3://bucket/rewards/")
summary = score_dataset(log, ["mean", "max@8"], group="prompt_id", reward="reward")
summary.tables()["values"]
```

`score_dataset` runs `group_row` on every group by ``map_groups`` and adds up its rows; use `group_row` alone for a
dataset with one row of numbers per group. Rewards never leave the cluster: what comes back is one short row per group,
and for the pooled distribution a few thousand points per block.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ordergrad.runs.contenders import GRPO
from ordergrad.score.columns import Roles
from ordergrad.score.digest import Digest
from ordergrad.score.groups import GroupScores, powers, score_groups
from ordergrad.score.means import Moments
from ordergrad.score.summary import Summary
from ordergrad.score.values import usable

__all__ = ["advantage_rows", "group_row", "score_dataset"]

Array = NDArray[Any]
_LARGEST, _POINTS = 1024, 1 << 12
_CURVES = {"best": "max@", "passed": "pass@", "reliable": "pass^"}


def group_row(
    group: Mapping[str, Array],
    objectives: Sequence[str],
    *,
    reward: str = "reward",
    mask: str | None = None,
    weight: str | None = None,
    prompt: str | None = None,
    success: float = 1.0,
    largest: int = _LARGEST,
    skip_broken: bool = False,
) -> dict[str, Array]:
    """Return the numbers of one group as one row, for ``map_groups``.

    Args:
        group: The columns of the group's rows.
        objectives: Strings of objectives.
        reward: The column of the reward.
        mask: The column that says whether a row counts: true or false, 1 or 0, also as text.
        weight: The column of importance weights.
        prompt: The column of the prompt, where a group is a prompt at a step.
        success: A reward of at least this much counts as a success in pass@k.
        largest: max@k and pass@k are for k = 1, 2, 4, ... up to this.
        skip_broken: Whether to count rows with a reward or weight that is not finite instead of raising an error.

    Returns:
        Arrays of length 1: ``size``, ``masked``, ``broken``; ``mean``, ``squares``, ``lowest``, ``highest`` of the
        rewards; ``value/OBJECTIVE``, ``sums/OBJECTIVE``, ``squares/OBJECTIVE`` (also for grpo) and ``max@K``,
        ``pass@K``, ``pass^K`` as in `ordergrad.score.groups.GroupScores`. NaN where the group is too small.

    Raises:
        ValueError: A row cannot be used.

    Example:
        >>> row = group_row({"reward": np.array([0.0, 1.0, 1.0])}, ["mean"], largest=2)
        >>> row["size"], row["value/mean"].round(3), row["pass@2"]
        (array([3]), array([0.667]), array([1.]))
    """
    rewards, weights, masked, broken = _usable(group, reward, mask, weight, skip_broken)
    ks = powers(largest)
    sizes = np.array([len(rewards)])
    scores = score_groups(rewards, sizes, objectives, success=success, weights=weights, ks=ks)
    known = rewards if len(rewards) else np.full(1, np.nan)
    mean = known.mean()
    row: dict[str, Any] = {"size": len(rewards), "masked": masked, "broken": broken}
    row |= {"mean": mean, "squares": ((known - mean) ** 2).sum(), "lowest": known.min(), "highest": known.max()}
    for table, names in _columns(objectives, ks).items():
        row |= zip(names, getattr(scores, table)[0], strict=True)
    if prompt is not None:
        row["unit"] = np.uint64(pl.Series([str(np.asarray(group[prompt])[0])]).hash(1)[0])
    return {name: np.array([number]) for name, number in row.items()}


def score_dataset(
    dataset: Any,
    objectives: Sequence[str],
    *,
    group: str | Sequence[str] = "group",
    reward: str = "reward",
    mask: str | None = None,
    weight: str | None = None,
    success: float = 1.0,
    largest: int = _LARGEST,
    skip_broken: bool = False,
) -> tuple[Summary, dict[str, int]]:
    """Return what a Ray dataset says about objectives, as `ordergrad score` would, and the rows that were left out.

    Args:
        dataset: A ``ray.data.Dataset``, one row per sample.
        objectives: Strings of objectives.
        group: The column of the group, or several such as the prompt and the step: errors are then over the first.
        reward: The column of the reward.
        mask: The column that says whether a row counts: true or false, 1 or 0, also as text.
        weight: The column of importance weights.
        success: A reward of at least this much counts as a success in pass@k.
        largest: max@k and pass@k are for k = 1, 2, 4, ... up to this.
        skip_broken: Whether to leave out rows that cannot be used.

    Returns:
        The summary, and the numbers of ``masked`` and ``broken`` rows.

    Raises:
        ValueError: The columns are not there, or a row cannot be used.
    """
    keys = [group] if isinstance(group, str) else list(group)
    wanted = [*keys, *(name for name in (reward, mask, weight) if name is not None)]
    found = dataset.schema().names
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"the dataset has no column {missing[0]!r}; it has {', '.join(found)}")
    columns = {"reward": reward, "mask": mask, "weight": weight, "skip_broken": skip_broken}
    rows = dataset.select_columns(wanted)
    prompt = keys[0] if len(keys) > 1 else None
    make = partial(group_row, objectives=list(objectives), prompt=prompt, success=success, largest=largest, **columns)
    summary, left_out = Summary(objectives, success), {"masked": 0, "broken": 0}
    moments, pooled = Moments(1), Digest()
    for batch in rows.groupby(keys).map_groups(make, batch_format="numpy").iter_batches(batch_format="numpy"):
        left_out = {name: count + int(batch[name].sum()) for name, count in left_out.items()}
        some = batch["size"] > 0
        taken = {name: column[some] for name, column in batch.items()}
        if some.any():
            tables = _columns(objectives, powers(largest)).items()
            tables = {table: np.stack([taken[name] for name in names], axis=1) for table, names in tables}
            scores = GroupScores(taken["size"], **tables)
            summary.add_scores(scores, weighted=weight is not None, units=taken.get("unit"))
            _join(moments, taken)
    for batch in rows.map_batches(partial(_points, **columns), batch_format="numpy").iter_batches(batch_format="numpy"):
        pooled.add(batch["x"], batch["mass"])
    if moments.count[0]:
        summary.merge_digest(pooled, moments, int(moments.count[0]))
    return summary, left_out


def advantage_rows(
    group: Mapping[str, Array], objective: str, *, reward: str = "reward", small: str = "zero"
) -> dict[str, Array]:
    """Return the rows of one group with a column ``advantage``, for ``map_groups``.

    Args:
        group: The columns of the group's rows.
        objective: The string of an objective.
        reward: The column of the reward.
        small: As in `ordergrad.advantages`.

    Example:
        >>> advantage_rows({"reward": np.array([0.0, 2.0])}, "mean")["advantage"]
        array([-2.,  2.])
    """
    from ordergrad.estimators import advantages

    return {**group, "advantage": advantages(np.asarray(group[reward], np.float64), objective, small=small)}  # type: ignore[arg-type]


def _usable(
    group: Mapping[str, Array], reward: str, mask: str | None, weight: str | None, skip_broken: bool
) -> tuple[Array, Array | None, int, int]:
    """Return rewards and weights that count, and the numbers of masked and broken rows."""
    names = {"reward": reward} | ({"mask": mask} if mask else {}) | ({"weight": weight} if weight else {})
    frame = pl.DataFrame({role: _column(np.asarray(group[name])) for role, name in names.items()})
    roles = Roles({role: (name,) for role, name in names.items()})
    columns, reasons, masked = usable(frame, roles, "the dataset")
    broken = reasons.is_not_null()
    if broken.any() and not skip_broken:
        first = int(broken.arg_max() or 0)
        row = {name: column[first] for name, column in group.items()}
        raise ValueError(
            f"{broken.sum()} rows of a group cannot be used, the first is {row} ({reasons[first]}); "
            "skip_broken=True counts them"
        )
    good = (~broken & ~masked).to_numpy()
    rewards, weights = (columns[role].to_numpy()[good] if role in names else None for role in ("reward", "weight"))
    return cast(Array, rewards), weights, int(masked.sum()), int(broken.sum())


def _column(values: Array) -> pl.Series:
    """Return a column of a batch, in which Ray has objects where there are texts or gaps."""
    return pl.Series(values.tolist(), strict=False) if values.dtype == object else pl.Series(values)


def _points(batch: Mapping[str, Array], **columns: Any) -> dict[str, Array]:
    rewards, weights, _, _ = _usable(batch, **columns)
    if not len(rewards):
        return {"x": np.zeros(0), "mass": np.zeros(0)}
    digest = Digest(_POINTS)
    digest.add(rewards, weights)
    x, p = digest.points()
    return {"x": x, "mass": p * (len(rewards) if weights is None else weights.sum())}


def _columns(objectives: Sequence[str], ks: Sequence[int]) -> dict[str, list[str]]:
    """Return the names of the columns of each table of `GroupScores`."""
    curves = {name: [f"{sign}{k}" for k in ks] for name, sign in _CURVES.items()}
    signal = {name: [f"{name}/{objective}" for objective in (*objectives, GRPO)] for name in ("sums", "squares")}
    return {"values": [f"value/{objective}" for objective in objectives]} | signal | curves


def _join(moments: Moments, batch: Mapping[str, Array]) -> None:
    count = batch["size"].sum()
    mean = (batch["size"] * batch["mean"]).sum() / count
    squares = (batch["squares"] + batch["size"] * (batch["mean"] - mean) ** 2).sum()
    moments.join(*(np.array([float(number)]) for number in (count, mean, squares)))
