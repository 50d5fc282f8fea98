"""The study of a pretrained model, from start to end, on a model of a few thousand parameters."""

import json
import string

import matplotlib.image
import numpy as np
import pytest
from studies import load, read

from ordergrad.train import small_lm

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def study():
    return load("pretrained")


@pytest.fixture(scope="module")
def settings(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = small_lm.character_tokenizer(string.ascii_lowercase + string.digits + " \n")
    tokenizer.save_pretrained(folder)
    small_lm.small_model(tokenizer, seed=0, width=8, layers=2).save_pretrained(folder)
    return study.Settings(
        steps=2, prompts=2, samples=5, micro_batch=10, lora_layers=1, held_out=6, eval_samples=16, model=str(folder)
    )


def test_the_study_from_start_to_end_and_again(study, settings, tmp_path):
    arguments = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path), "--images", str(tmp_path)]
    study.main([*arguments, "--contenders", "grpo", "max@4", "--seeds", "0"], settings)
    records = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert [(r["contender"], r["seed"]) for r in map(json.loads, records)] == [("base", 0), ("grpo", 0), ("max@4", 0)]
    assert len(json.loads(records[1])["curves"]["reward"]) == 2
    study.main([*arguments, "--contenders", "grpo", "--seeds", "0", "--resume", "--model", settings.model], settings)
    assert (tmp_path / "runs.jsonl").read_text().splitlines() == records  # what is there is not trained again
    runs = read(tmp_path / "runs.csv")
    assert [row["contender"] for row in runs] == ["base", "grpo", "max@4"]
    base = json.loads(records[0])
    assert float(runs[0]["pass@1"]) == pytest.approx(np.mean(base["successes"]) / 16, abs=1e-5)
    leads = {(row["contender"], row["over"], row["measure"]): row for row in read(tmp_path / "leads.csv")}
    lead = leads["max@4", "grpo", "pass@1"]
    assert float(lead["lead"]) == pytest.approx(float(runs[2]["pass@1"]) - float(runs[1]["pass@1"]), abs=1e-4)
    assert float(lead["low"]) <= float(lead["lead"]) <= float(lead["high"])
    assert json.loads((tmp_path / "summary.json").read_text())["finished"] == ["grpo, seed 0", "max@4, seed 0"]
    assert matplotlib.image.imread(tmp_path / "pretrained.png").std() > 0.02


@pytest.mark.parametrize(("size", "counts"), [("small", (368, 96)), ("large", (5800, 200))])
def test_held_out_problems_are_not_trained_on(size, counts, study):
    train, held_out = study.problems(study.SIZES[size])
    assert (len(train), len(held_out)) == counts
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert {row["operation"] for row in held_out} == set(study.OPERATIONS)


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        (" 42\n4", 42),
        ("42", 42),
        (" -3", -3),
        (" 42.5", None),
        (" 4,200", None),
        (" the", None),
        ("", None),
        (" 7.", 7),
    ],
)
def test_a_number_is_read_at_the_beginning(completion, number, study):
    assert study.number_of(completion) == number
