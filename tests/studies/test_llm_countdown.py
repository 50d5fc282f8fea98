"""The study of pass@k on Countdown: every part of it in small, and the mathematics of its contenders."""

import itertools
import json

import matplotlib.image
import numpy as np
import pytest
import torch
from studies import load, read

from ordergrad import exact

pytestmark = pytest.mark.filterwarnings("ignore:The BCa confidence interval")

TINY = {"width": 8, "layers": 1, "warm_steps": 4, "warm_batch": 8, "steps": 8, "prompts": 2, "eval_samples": 64}


@pytest.fixture
def study():
    return load("llm_countdown")


@pytest.fixture
def settings(study):
    return study.Settings(**TINY, warm_starts=2, training_problems=40, held_out=4)


@pytest.fixture
def batch(study, settings):
    """Return a model, another one, and completions of two prompts with their lengths."""
    torch.manual_seed(0)
    model, other = study.Decoder(8, 1), study.Decoder(8, 1)
    prompts = torch.tensor([study.prompt_of(p) for p in study.problems(40, 4)[0][:2]])
    return model, other, *model.sample(prompts, 8, torch.Generator().manual_seed(0))[:2]


def test_the_study_from_start_to_end(study, settings, tmp_path, monkeypatch):
    chosen = ("grpo", "max@4", "grpo, KL", "mean, dapo")
    monkeypatch.setattr(study, "RECIPES", {name: study.RECIPES[name] for name in chosen})
    monkeypatch.setattr(study, "TUNED", dict(list(study.TUNED.items())[-1:]))
    monkeypatch.setattr(study, "WORTH", chosen[:2])
    monkeypatch.setattr(study, "SHOWN", chosen[:3])
    out, results, images = tmp_path / "runs", tmp_path / "results", tmp_path / "images"
    arguments = ["--out", str(out), "--results", str(results), "--images", str(images)]
    study.main(arguments, settings)
    rows = read(results / "runs.csv")
    ended = [row for row in rows if row["last"] == "1"]
    assert [sum(row["part"] == part for row in ended) for part in ("start", *study.PARTS)] == [
        2,
        1,
        2 * (2 * 3 + 1),
        2 * len(study.PRICED),
    ]
    assert {row["step"] for row in rows if row["part"] == "study"} == {"4", "8"}
    lines = [json.loads(line) for line in (results / "runs.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert float(row["pass@1"]) == pytest.approx(np.mean(line["successes"]) / 64, rel=1e-4)
    leads = read(results / "leads.csv")
    assert {(row["contender"], row["over"], row["runs"]) for row in leads} >= {
        ("max@4", "grpo", "4"),
        ("max@4", "start", "4"),
        ("mean, dapo", "grpo", "2"),
    }
    for name in ("", "_training", "_worth"):
        assert matplotlib.image.imread(images / f"llm_countdown{name}.png").std() > 0.02

    before = (results / "runs.jsonl").read_text()
    with pytest.raises(SystemExit, match="already holds a run"):
        study.main(arguments, settings)
    study.main([*arguments, "--resume"], settings)
    assert (results / "runs.jsonl").read_text() == before


def test_sampling_with_a_cache_has_the_logits_of_the_whole_text(study, settings, batch):
    model, _, tokens, _ = batch
    caches = [torch.empty(2, len(tokens), 4, study.PROMPT + study.LONGEST, 2) for _ in model.blocks]
    with torch.no_grad():
        whole = model(tokens[:, :-1])
        parts = [model(tokens[:, : study.PROMPT], caches)]
        parts += [model(tokens[:, at : at + 1], caches, at) for at in range(study.PROMPT, tokens.shape[1] - 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


def log_probabilities(study, model, tokens, lengths):
    """Return the log-probability of every token of the completions, 0 after their end."""
    logp = model(tokens[:, :-1]).log_softmax(-1)[:, study.PROMPT - 1 :]
    mask = torch.arange(study.LONGEST) < lengths[:, None]
    return logp, logp.gather(2, tokens[:, study.PROMPT :, None])[..., 0] * mask, mask


@pytest.mark.parametrize("loss", ["dr_grpo", "dapo"])
@pytest.mark.parametrize(("kl", "entropy"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2)])
def test_the_loss_is_that_of_its_recipe(study, batch, loss, kl, entropy):
    model, other, tokens, lengths = batch
    a = torch.randn(16, generator=torch.Generator().manual_seed(1))
    a[:8] = 0.0
    logp, chosen, mask = log_probabilities(study, model, tokens, lengths)
    apart = log_probabilities(study, other, tokens, lengths)[1].detach() - chosen
    total = -(a @ chosen.sum(1)) + kl * ((apart.exp() - apart - 1) * mask).sum()
    expected = total / (16 * study.LONGEST if loss == "dr_grpo" else lengths.sum())
    expected = expected + entropy * ((logp.exp() * logp).sum(-1) * mask).sum() / lengths.sum()
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    study.update(study.Recipe(loss=loss, kl=kl, entropy=entropy), model, other, tokens, lengths, a)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("successes", [0, 1, 3, 7, 8])
def test_pass_training_averages_over_subsets(study, successes):
    rewards = (np.arange(8) < successes).astype(float)
    subsets = list(itertools.combinations(range(8), 4))
    best = np.array([rewards[list(subset)].max() for subset in subsets])
    holding = np.array([best[[i in subset for subset in subsets]].mean() for i in range(8)])
    spread = best.std() or 1.0
    assert study.pass_training(rewards[None], 4)[0] == pytest.approx((holding - best.mean()) / spread)


@pytest.mark.parametrize("contender", ["mean", "max@4", "top:2@4", "maxrl", "min@4", "0.5*mean+0.5*min@4"])
def test_the_worth_of_success_is_the_derivative_of_the_objective(study, contender):
    objective = "maxrl@7" if contender == "maxrl" else contender
    for p in (0.05, 0.4, 0.9):
        up, down = (exact.value([0.0, 1.0], [1 - q, q], objective) for q in (p + 1e-6, p - 1e-6))
        assert study.worth(study.RECIPES[contender], p, 8) == pytest.approx((up - down) / 2e-6, rel=1e-6)
