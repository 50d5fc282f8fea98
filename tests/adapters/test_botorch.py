"""The BoTorch adapter, against BoTorch's own risk measures and in its acquisition functions."""

import math

import pytest
import torch
from doctests import check_doctests
from torch.testing import assert_close

import ordergrad as og
from ordergrad import objectives as o

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has known numerical issues:botorch.exceptions.warnings.NumericsWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def framework():
    """Import the framework with the first test: it takes seconds that collecting need not cost."""
    global botorch, qSimpleRegret, LinearMCObjective, CVaR, Expectation, VaR, WorstCase, SingleTaskGP
    global AppendFeatures, InputPerturbation, SobolQMCNormalSampler, OrderGradRiskMeasure

    import botorch
    from botorch.acquisition import qSimpleRegret
    from botorch.acquisition.objective import LinearMCObjective
    from botorch.acquisition.risk_measures import CVaR, Expectation, VaR, WorstCase
    from botorch.models import SingleTaskGP
    from botorch.models.transforms.input import AppendFeatures, InputPerturbation
    from botorch.sampling import SobolQMCNormalSampler

    from ordergrad.adapters.botorch import OrderGradRiskMeasure


def test_doctests():
    check_doctests("ordergrad.adapters.botorch")


def samples(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_w", [1, 5, 16])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.75, 0.9, 1.0])
def test_botorchs_own_measures_are_objectives_of_ranks(n_w, alpha):
    """In every shape of samples that BoTorch passes: (samples, q n_w, 1), with batches, with several sample axes."""
    j = math.ceil(n_w * alpha)
    pairs = [
        (Expectation(n_w), "mean"),
        (WorstCase(n_w), f"min@{n_w}"),
        (VaR(alpha, n_w), f"rank:{j}@{n_w}"),
        (CVaR(alpha, n_w), f"bottom:{n_w - j + 1}@{n_w}"),
        (CVaR(alpha, n_w), f"cvar:{(n_w - j + 1) / n_w}@{n_w}"),
    ]
    for shape in ((4, n_w, 1), (4, 3 * n_w, 1), (4, 2, 3 * n_w, 1), (4, 2, 5, n_w, 1)):
        x = samples(*shape)
        for theirs, ours in pairs:
            got = OrderGradRiskMeasure(ours, n_w)(x)
            assert got.shape == (*shape[:-2], shape[-2] // n_w)
            assert_close(got, theirs(x), msg=f"{ours} {shape}")


def test_the_fractional_tail():
    """An eighth of twelve is one and a half; BoTorch's whole tail is two, and the share that it leaves out is alpha."""
    x = samples(6, 2 * 12, 1)
    ordered = x.reshape(6, 2, 12).sort(-1).values
    got = OrderGradRiskMeasure("cvar:0.125@12", 12)(x)
    assert_close(got, (ordered[..., 0] + 0.5 * ordered[..., 1]) / 1.5)
    assert_close(CVaR(0.875, 12)(x), ordered[..., :2].mean(-1))
    assert (got < CVaR(0.875, 12)(x)).all()


def test_several_outputs_and_minimisation():
    x = samples(3, 8, 2)
    weights = LinearMCObjective(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    got = OrderGradRiskMeasure(o.CVaR(0.3, 4), 4, weights)(x)
    assert_close(got, og.value((0.5 * x[..., 1] - x[..., 0]).reshape(3, 2, 4), "cvar:0.3@4"))
    assert_close(got, OrderGradRiskMeasure("cvar:0.3@4", 4, weights)(x))
    with pytest.raises(RuntimeError, match="scalarized"):
        OrderGradRiskMeasure("mean", 4)(x)


@pytest.mark.parametrize(
    ("objective", "n_w", "message"),
    [
        ("max@5", 4, "n_w must be at least the comparison size 5 of max@5; got n_w=4"),
        ("cvar:0.1@16.5", 16, "comparison size 17"),
        ("lmoment:3", 2, "comparison size 3"),
        ("mean", 0, "n_w must be a positive whole number; got 0"),
        ("mean", 2.0, "n_w must be a positive whole number; got 2.0"),
        ("nonsense", 4, "nonsense"),
    ],
)
def test_what_does_not_fit_is_an_error(objective, n_w, message):
    with pytest.raises(ValueError, match=message):
        OrderGradRiskMeasure(objective, n_w)


def test_a_model_without_perturbations_is_an_error():
    with pytest.raises(ValueError, match=r"n_w=4 points for every candidate; got 6 points \(shape \(3, 6, 1\)\)"):
        OrderGradRiskMeasure("mean", 4)(samples(3, 6, 1))
    x = torch.rand(6, 2, dtype=torch.float64)
    model = SingleTaskGP(x, x.sum(-1, keepdim=True))
    acquisition = qSimpleRegret(model, objective=OrderGradRiskMeasure("mean", 4))
    with pytest.raises(ValueError, match="input transform"):
        acquisition(x[:1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_named_as_such(bad):
    x = samples(3, 8, 1)
    x[1, 2] = bad
    message = r"samples of the posterior are no rewards of cvar:0.3 \(samples shape \(3, 8, 1\)\).*must be finite"
    with pytest.raises(ValueError, match=message):
        OrderGradRiskMeasure("cvar:0.3", 4)(x)


def model_with(transform):
    x = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = -((x - 0.4) ** 2).sum(-1, keepdim=True)
    model = SingleTaskGP(x, y, input_transform=transform)
    return model.eval(), x


@pytest.mark.parametrize("kind", ["qNoisyExpectedImprovement", "qLogNoisyExpectedImprovement"])
@pytest.mark.parametrize("objective", ["cvar:0.3@6", "median", "mean-0.5*gini"])
def test_gradients_reach_the_candidates(kind, objective):
    """In noisy expected improvement, for two candidates at once; by finite differences."""
    model, x = model_with(InputPerturbation(0.1 * samples(6, 2), bounds=torch.tensor([[0.0, 0.0], [1.0, 1.0]])))
    acquisition = getattr(botorch.acquisition, kind)(
        model,
        x,
        sampler=SobolQMCNormalSampler(torch.Size([32]), seed=0),
        objective=OrderGradRiskMeasure(objective, 6),
        prune_baseline=True,
    )
    candidates = torch.tensor([[[0.3, 0.5], [0.7, 0.2]]], dtype=torch.float64, requires_grad=True)
    value = acquisition(candidates)
    assert value.shape == (1,)
    (gradient,) = torch.autograd.grad(value.sum(), candidates)
    for index in [(0, 0, 0), (0, 1, 1)]:
        step = torch.zeros_like(candidates)
        step[index] = 1e-5
        with torch.no_grad():
            difference = (acquisition(candidates + step) - acquisition(candidates - step)) / 2e-5
        assert_close(gradient[index], difference[0], rtol=1e-3, atol=1e-6)


def test_an_acquisition_function_agrees_with_botorchs():
    model, x = model_with(InputPerturbation(0.1 * samples(8, 2)))
    far = ((x - 0.4) ** 2).sum(-1).argsort()[-3:]  # improvement is easy
    options = {"X_baseline": x[far], "prune_baseline": False}
    candidates = torch.rand(4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for theirs, ours in ((CVaR(0.7, 8), "bottom:3@8"), (VaR(0.7, 8), "rank:6@8"), (Expectation(8), "mean")):
        values = [
            botorch.acquisition.qNoisyExpectedImprovement(
                model, sampler=SobolQMCNormalSampler(torch.Size([64]), seed=0), objective=objective, **options
            )(candidates)
            for objective in (theirs, OrderGradRiskMeasure(ours, 8))
        ]
        assert values[0].max() > 0
        assert_close(values[1], values[0])


def test_environmental_conditions():
    """Conditions appended to the candidates instead of perturbations of them."""
    conditions = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    x = torch.rand(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = SingleTaskGP(x, x.prod(-1, keepdim=True), input_transform=AppendFeatures(conditions)).eval()
    risk = OrderGradRiskMeasure("cvar:0.5@5", 5)
    candidates = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    sampler = SobolQMCNormalSampler(torch.Size([16]), seed=0)
    got = qSimpleRegret(model, sampler=sampler, objective=risk)(candidates)
    drawn = sampler(model.posterior(candidates))[..., 0].sort(-1).values
    assert_close(got[0], ((drawn[:, 0] + drawn[:, 1] + 0.5 * drawn[:, 2]) / 2.5).mean())


def test_it_survives_a_state_dict_and_pickling():
    import pickle

    risk = OrderGradRiskMeasure("0.5*mean+0.5*cvar:0.3@4", 4)
    again = pickle.loads(pickle.dumps(risk))
    assert again.objective == risk.objective
    assert_close(again(samples(2, 8, 1)), risk(samples(2, 8, 1)))
    assert not list(risk.parameters())
