"""Reward logs through Ray Data, on a local Ray."""

import json

import numpy as np
import pytest
import ray
import ray.data

import ordergrad as og
from ordergrad.score.columns import Columns
from ordergrad.score.logs import score_log
from ordergrad.score.opening import open_log
from ordergrad.score.ray_data import advantage_rows, group_row, score_dataset
from ordergrad.score.summary import Summary

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
OBJECTIVES = ["mean", "max@4", "cvar:0.3"]


@pytest.fixture(scope="module")
def log():
    """A dataset, its rewards sorted by group, and the sizes of the groups."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.default_hash_shuffle_parallelism = False, 2
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 9, size=40)))
    rewards = rng.integers(0, 4, size=len(ids)) / 3
    keep = rng.random(len(ids)) < 0.9
    rows = [{"id": int(i), "reward": float(r), "keep": bool(k)} for i, r, k in zip(ids, rewards, keep, strict=True)]
    yield ray.data.from_items(rows, override_num_blocks=2), ids, rewards, keep
    ray.shutdown()


def test_a_dataset_is_scored_as_a_file_is(log):
    dataset, ids, rewards, keep = log
    found, left_out = score_dataset(dataset, OBJECTIVES, group="id", mask="keep", largest=8)
    order = np.argsort(ids[keep], kind="stable")
    sizes = np.bincount(ids[keep])
    whole = Summary(OBJECTIVES)
    whole.add(rewards[keep][order], sizes[sizes > 0])
    assert left_out == {"masked": int((~keep).sum()), "broken": 0}
    assert found.about() == pytest.approx(whole.about())
    for name, rows in whole.tables().items():
        for row, other in zip(rows, found.tables()[name], strict=True):
            assert other == pytest.approx(row, nan_ok=True), name


def test_a_text_mask_is_read_as_from_a_file(log, tmp_path):
    _, ids, rewards, keep = log
    words = np.where(keep & (ids > 0), " TRUE", "false")
    words[rewards == 1] = "maybe"
    rows = [{"id": int(i), "reward": float(r), "keep": str(k)} for i, r, k in zip(ids, rewards, words, strict=True)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, left_out = score_dataset(
        ray.data.from_items(rows, override_num_blocks=2), OBJECTIVES, group="id", mask="keep", skip_broken=True
    )
    file = open_log("log", [tmp_path / "log.jsonl"], Columns("id", mask="keep"))
    reading, whole = score_log(file, OBJECTIVES, skip_broken=True)
    assert left_out == {"masked": reading.masked, "broken": reading.problems.count}
    assert reading.problems.count > 0
    values = [row["value"] for row in whole.tables()["values"]]
    assert [row["value"] for row in found.tables()["values"]] == pytest.approx(values)


def test_advantages_of_a_dataset(log):
    dataset, ids, rewards, _ = log
    rows = dataset.groupby("id").map_groups(
        advantage_rows, fn_kwargs={"objective": "max@2", "small": "zero"}, batch_format="numpy"
    )
    found = rows.to_pandas().sort_values("id", kind="stable")
    order = np.argsort(ids, kind="stable")
    expected = og.group_advantages(rewards[order], ids[order], "max@2", small="zero")
    assert sorted(zip(found["id"], found["reward"], found["advantage"].round(9), strict=True)) == sorted(
        zip(ids[order], rewards[order], expected.round(9), strict=True)
    )


def test_wrong_columns_are_refused(log):
    with pytest.raises(ValueError, match="no column 'prompt'; it has id, reward, keep"):
        score_dataset(log[0], OBJECTIVES, group="prompt")


def test_broken_rows_of_a_group():
    group = {"id": np.array([7, 7, 7]), "reward": np.array([0.0, np.nan, 1.0])}
    with pytest.raises(ValueError, match=r"1 rows of a group cannot be used, the first is .*7"):
        group_row(group, ["mean"])
    row = group_row(group, ["mean"], skip_broken=True)
    assert (row["broken"][0], row["size"][0], row["value/mean"][0]) == (1, 2, 0.5)


def test_the_prompt_of_a_group_at_several_steps():
    """The error is over prompts where the group is a prompt at a step: the first column names it."""
    rng = np.random.default_rng(0)
    rows = {}
    for prompt in ("a", "b", "c"):
        level = rng.random()
        for step in range(4):
            group = {"reward": (rng.random(8) < level) * 1.0, "id": np.array([prompt] * 8), "step": np.full(8, step)}
            rows[prompt, step] = group_row(group, ["mean"], prompt="id", largest=1)
    units = [rows[key]["unit"][0] for key in rows]
    assert len(set(units)) == 3
    assert units[:4] == [units[0]] * 4


@pytest.mark.parametrize(
    ("mask", "size", "masked", "broken"),
    [
        (["true", "False", "1"], 2, 1, 0),
        (["0", "maybe", "1"], 1, 1, 1),
        (np.array([True, None, False], object), 1, 1, 1),
        ([1.0, np.nan, 2.0], 1, 0, 2),
        ([False, False, False], 0, 3, 0),
    ],
)
def test_masks_of_a_group(mask, size, masked, broken):
    group = {"reward": np.array([0.0, 1.0, 5.0]), "keep": np.asarray(mask)}
    row = group_row(group, ["mean"], mask="keep", skip_broken=True)
    assert (row["size"][0], row["masked"][0], row["broken"][0]) == (size, masked, broken)
    if broken:
        with pytest.raises(ValueError, match="keep is neither true nor false"):
            group_row(group, ["mean"], mask="keep")
