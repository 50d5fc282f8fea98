"""What is PyTorch's own: autograd, compilation with changing objectives, inference mode, transforms."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import ordergrad as og
from ordergrad import objectives as o

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]

REWARDS = torch.tensor([[0.5, -1.0, 2.0, 0.25, 3.0, -0.5], [1.0, 1.5, 0.0, -0.125, 1.25, 7.0]], dtype=torch.float64)
SOME = ["mean", "max@3", "cvar:0.4", "lmoment:3", "0.7*mean-0.3*max@2.5"]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled(function, backend="eager", **options):
    return torch.compile(function, fullgraph=True, backend=backend, **options)


@pytest.mark.parametrize("spec", SOME)
@pytest.mark.parametrize(
    "function",
    [
        og.value,
        lambda x, spec: og.value(x, spec, where=torch.arange(6) != 2),
        lambda x, spec: og.value(x, spec, sample_weight=torch.arange(1.0, 7.0)),
        og.include_one,
        og.leave_one_out,
        lambda x, spec: og.value_and_error(x, spec)[1],
        lambda x, spec: og.order_statistics(x, 3),
    ],
    ids=["value", "masked", "weighted", "include_one", "leave_one_out", "error", "order_statistics"],
)
def test_gradients(function, spec):
    x = REWARDS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, spec), x)
    assert torch.autograd.gradgradcheck(lambda x: function(x, spec), x)


PATHWISE = [*SOME, "gini", "median@5", "quantile:0.5:harrelldavis", "max@6", "cvar:0.4@6"]
PATHWISE += ["0.5*var:0.3@6+0.5*lmoment:2"]
"""Objectives of comparison sizes up to N = 6."""


def bent(x):
    return x + 0.1 * x**3  # keeps the order, so that second derivatives are not all zero


def by_enumeration(x, spec, n=6):
    """The value of six rewards, and its jackknife error where K < N: averages over every subset."""
    objective = og.parse(spec)

    def value(rewards):
        total = 0.0
        for c, part in objective.terms():
            k = part.comparison_size or len(rewards)
            for share, size in {(1 - k % 1, int(k)), (k % 1, int(k) + 1)}:
                if share:
                    alpha = torch.as_tensor(part.rank_weights(size))
                    subsets = torch.stack([rewards[list(s)] for s in itertools.combinations(range(len(rewards)), size)])
                    total = total + c * share * (subsets.sort(-1).values @ alpha).mean()
        return total

    if objective.largest_size >= n:
        return value(x)
    left_out = torch.stack([value(torch.cat([x[:i], x[i + 1 :]])) for i in range(n)])
    return value(x) - 0.5 * ((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()).sqrt()


def of_the_library(x, spec):
    if "@6" in spec:
        return og.value(x, spec)
    v, error = og.value_and_error(x, spec)
    return v - 0.5 * error


@pytest.mark.parametrize("spec", PATHWISE)
def test_first_and_second_derivatives_are_those_of_the_enumeration(spec):
    """For every K up to N, eager, mapped and compiled."""
    f = torch.func
    target = [
        (f.grad(lambda x: by_enumeration(bent(x), spec))(row), f.hessian(lambda x: by_enumeration(bent(x), spec))(row))
        for row in REWARDS
    ]
    first = torch.stack([gradient for gradient, _ in target])
    second = torch.stack([hessian for _, hessian in target])
    assert second.abs().max() > 0.01

    def function(x):
        return of_the_library(bent(x), spec)

    def gradient(x):
        return (f.grad(function)(x),) * 2

    # PyTorch cannot compile vmap(hessian), not of a sort either: two reverse passes, with the gradient beside them
    both = f.vmap(f.jacrev(gradient, has_aux=True))
    for run in (both, compiled(both, "aot_eager")):
        got = run(REWARDS)
        assert_allclose(got[0], second, atol=1e-13)
        assert_allclose(got[1], first, atol=1e-13)
    assert_allclose(f.vmap(f.hessian(function))(REWARDS), second, atol=1e-13)
    x = REWARDS.clone().requires_grad_()
    compiled(lambda x: function(x).sum(), "aot_eager")(x).backward()
    assert_allclose(x.grad, first, atol=1e-13)
    y = REWARDS.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, y)
    assert torch.autograd.gradgradcheck(function, y)


def test_equal_rewards_have_an_error_of_zero_and_a_derivative_of_zero():
    x = torch.full((2, 5), 0.3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] * 4 + [False]])
    for options in ({}, {"where": mask}, {"sample_weight": torch.arange(1.0, 6.0)}):
        v, error = og.value_and_error(x, "cvar:0.5@3", **options)
        assert_allclose(error.detach(), 0)
        (gradient,) = torch.autograd.grad((v - error).sum(), x)
        assert_allclose(gradient.sum(-1), 1)
        (nothing,) = torch.autograd.grad(og.value_and_error(x, "cvar:0.5@3", **options)[1].sum(), x)
        assert_allclose(nothing, 0)


@pytest.mark.parametrize("first", ["grad", "hessian", "vmap", "compiled"])
def test_what_a_transformation_caches_is_good_for_everybody(first):
    """The constants of an objective that is first met inside a transformation are ordinary tensors."""
    f = torch.func
    spec = {"grad": "cvar:0.41@4", "hessian": "cvar:0.42@4", "vmap": "cvar:0.43@4", "compiled": "cvar:0.44@4"}[first]

    def function(x):
        return og.value(bent(x), spec)

    ways = {
        "grad": f.grad(function),
        "hessian": f.hessian(function),
        "vmap": lambda x: f.vmap(f.grad(function))(x[None])[0],
        "compiled": compiled(f.grad(function)),
    }
    ways[first](REWARDS[0])
    x = REWARDS[0].clone().requires_grad_()
    function(x).backward()
    weights = torch.as_tensor(og.sample_weights(spec, 6))[REWARDS[0].argsort().argsort()]
    assert_allclose(x.grad, weights * (1 + 0.3 * REWARDS[0] ** 2), atol=1e-14)
    for name in ("grad", "vmap", "compiled"):
        assert_allclose(ways[name](REWARDS[0]), x.grad, atol=1e-14)
    assert_allclose(ways["hessian"](REWARDS[0]), torch.diag(weights * 0.6 * REWARDS[0]), atol=1e-14)


class Chosen(torch.nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def forward(self, x):
        return og.advantages(x, self.objective), og.value(x, self.objective)


def traced(**options):
    from torch.fx.experimental.proxy_tensor import make_fx

    return lambda module: make_fx(module, **options)(REWARDS)


def faked(module):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        module(mode.from_tensor(REWARDS))
    return module


MODES = {
    "fake tensors": faked,
    "export": lambda module: torch.export.export(module, (REWARDS,), strict=False).module(),
    "strict export": lambda module: torch.export.export(module, (REWARDS,), strict=True).module(),
    "make_fx": traced(),
    "make_fx early": traced(pre_dispatch=True),
    "make_fx on fake tensors": traced(tracing_mode="fake"),
    "make_fx with any size": traced(tracing_mode="symbolic"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", ["mode", "ordinary"])
def test_what_a_dispatch_mode_makes_stays_there(mode, first):
    """Fake constants are not for ordinary tensors, nor ordinary ones for fake tensors."""
    spec = f"cvar:0.{51 + list(MODES).index(mode)}@{3 if first == 'mode' else 4}"
    advantages, value = (f(REWARDS.numpy(), spec) for f in (og.advantages, og.value))
    module = Chosen(spec)

    def assert_ordinary(run):
        for got, expected in zip(run(REWARDS.flip(-1)), (advantages[:, ::-1], value), strict=True):
            assert type(got) is torch.Tensor
            assert_allclose(got, expected, atol=1e-14)

    if first == "ordinary":
        assert_ordinary(module)
    graph = MODES[mode](module)
    assert_ordinary(module)
    assert_ordinary(graph)
    assert_ordinary(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_leaves_nothing_behind():
    """Shapes are tensors while PyTorch traces; the cache must not count in them."""
    torch.jit.trace(lambda x: og.value(x, "cvar:0.45@4"), REWARDS, check_trace=False)
    gradient = torch.func.grad(lambda x: og.value(x, "cvar:0.46@4"))(REWARDS[0])
    weights = torch.as_tensor(og.sample_weights("cvar:0.46@4", 6))[REWARDS[0].argsort().argsort()]
    assert_allclose(gradient, weights, atol=1e-14)


def test_gradient_of_the_exact_value():
    logits = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64, requires_grad=True)
    for spec in ("max@3", "cvar:0.4@5", "mean"):
        assert torch.autograd.gradcheck(lambda r, z, s=spec: og.exact.value(r, z.softmax(-1), s), (rewards, logits))


def test_gradient_of_the_value_is_its_sample_weights():
    x = REWARDS[0].clone().requires_grad_()
    og.value(x, "cvar:0.4@4").backward()
    assert_allclose(x.grad[x.argsort()], og.sample_weights("cvar:0.4@4", 6), atol=1e-15)


@pytest.mark.parametrize("spec", SOME)
def test_advantages_are_detached_values_are_not(spec):
    x = REWARDS.clone().requires_grad_()
    assert not og.advantages(x, spec).requires_grad
    assert not og.advantages(x, spec, where=x.detach() < 5).requires_grad
    assert not og.advantages(x, spec, sample_weight=torch.ones(6, requires_grad=True)).requires_grad
    assert not og.rank_advantages(x, 3).requires_grad
    assert not og.group_advantages(x[0], [0, 0, 1, 0, 1, 1], "max@2").requires_grad
    assert not og.exact.advantages(x[0], torch.full((6,), 1 / 6, requires_grad=True), "max@2").requires_grad
    assert og.value(x, spec).requires_grad


DERIVATIVES = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "grad of vmap": lambda f, x: torch.func.grad(lambda x: torch.func.vmap(f)(x).sum())(x),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "jacfwd of vmap": lambda f, x: torch.func.jacfwd(torch.func.vmap(f))(x),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_advantages_are_constants_to_every_derivative(derivative):
    def with_square(x):
        return og.advantages(x, "max@2") ** 2 + x

    expected = DERIVATIVES[derivative](lambda x: x, REWARDS)
    assert_allclose(DERIVATIVES[derivative](with_square, REWARDS), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_advantages_are_constants_to_a_dual_tensor_and_a_trace():
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(REWARDS, torch.ones_like(REWARDS))
        assert torch.autograd.forward_ad.unpack_dual(og.advantages(dual, "max@2")).tangent is None
    traced = torch.jit.trace(lambda x: og.advantages(x, "max@2") + x, REWARDS, check_trace=False)
    x = REWARDS.clone().requires_grad_()
    traced(x).sum().backward()
    assert_allclose(x.grad, 1)


def test_a_mapped_function_ranks_a_tensor_from_outside():
    got = torch.func.vmap(lambda row: og.advantages(REWARDS, "max@2")[1] + row)(REWARDS)
    assert_allclose(got, og.advantages(REWARDS, "max@2")[1] + REWARDS, atol=1e-14)


def test_inference_mode_first_and_autograd_later():
    """What is cached in inference mode must not poison what runs with gradients."""
    spec = "cvar:0.37@4"
    with torch.inference_mode():
        og.value(REWARDS.clone(), spec)
        og.advantages(REWARDS.clone(), spec)
        og.value(REWARDS.clone(), spec, where=torch.arange(6) != 2)
    x = REWARDS.clone().requires_grad_()
    og.value(x, spec).sum().backward()
    og.value(x, spec, where=torch.arange(6) != 2).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_no_grad_and_default_dtype():
    with torch.no_grad():
        assert_allclose(og.value(REWARDS, "max@3"), og.value(REWARDS.numpy(), "max@3"))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert og.advantages(torch.arange(5), "max@3").dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert og.advantages(torch.arange(5), "max@3").dtype == torch.float32


def test_the_input_is_not_written_to():
    x = REWARDS.clone()
    view = x.T[::2]
    for function in (og.advantages, og.value, og.include_one):
        got = function(view, "max@2", axis=0, where=view < 5)
        assert_allclose(got, function(view.numpy(), "max@2", axis=0, where=view.numpy() < 5), atol=1e-14)
    assert torch.equal(x, REWARDS)


OBJECTIVES = ["mean", "max@3", "max@4", "cvar:0.5", "0.5*mean+0.5*max@2", "cvar:0.25"]


@pytest.mark.parametrize("as_string", [True, False])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_function_follows_its_objective(as_string, backend):
    """Constants of one objective are never reused for another."""
    run = compiled(lambda x, objective: og.advantages(x, objective), backend)
    for _ in range(2):
        for spec in OBJECTIVES:
            objective = spec if as_string else og.parse(spec)
            assert_allclose(run(REWARDS, objective), og.advantages(REWARDS, spec), atol=1e-14)


class Holder(torch.nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def forward(self, x):
        return og.advantages(x, self.objective)


@pytest.mark.parametrize("as_string", [True, False])
def test_a_compiled_module_follows_its_attribute(as_string):
    module = Holder("mean")
    run = compiled(module)
    for spec in [*OBJECTIVES, *OBJECTIVES[::-1]]:
        module.objective = spec if as_string else og.parse(spec)
        assert_allclose(run(REWARDS), og.advantages(REWARDS, spec), atol=1e-14)


def test_an_annealed_objective_under_compilation():
    run = compiled(lambda x, objective: og.advantages(x, objective))
    for step in range(6):
        objective = og.anneal("mean", "cvar:0.25", step / 5)
        assert_allclose(run(REWARDS, objective), og.advantages(REWARDS.numpy(), objective), atol=1e-14)


def test_a_compiled_function_follows_size_dtype_and_baseline():
    run = compiled(lambda x, baseline: og.advantages(x, "cvar:0.4", baseline=baseline), dynamic=False)
    for n in (6, 4):
        for dtype in (torch.float64, torch.float32):
            for baseline in ("leave_one_out", "none"):
                x = REWARDS[:, :n].to(dtype)
                expected = og.advantages(REWARDS[:, :n].numpy(), "cvar:0.4", baseline=baseline)
                assert run(x, baseline).dtype == dtype
                assert_allclose(run(x, baseline), expected, atol=1e-5)
    torch._dynamo.reset()
    dynamic = compiled(lambda x: og.advantages(x, "cvar:0.4"), dynamic=True)
    for n in (6, 4, 5):
        assert_allclose(dynamic(REWARDS[:, :n]), og.advantages(REWARDS[:, :n].numpy(), "cvar:0.4"), atol=1e-13)


def test_a_compiled_training_step():
    """A loss with advantages and one with a differentiable value, forward and backward."""
    logp = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    loss = compiled(lambda r, lp: -(og.advantages(r, "max@3") * lp).mean(), "aot_eager")
    loss(REWARDS, logp).backward()
    assert_allclose(logp.grad, -og.advantages(REWARDS, "max@3") / 12, atol=1e-15)
    x = REWARDS.clone().requires_grad_()
    compiled(lambda x: og.value(x, "cvar:0.4").sum(), "aot_eager")(x).backward()
    y = REWARDS.clone().requires_grad_()
    og.value(y, "cvar:0.4").sum().backward()
    assert_allclose(x.grad, y.grad, atol=1e-15)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_inductor():
    """Advantages, and a value and error with their gradient."""

    def function(x):
        return og.advantages(x, "cvar:0.4"), of_the_library(bent(x), "max@3")

    x, y = REWARDS.clone().requires_grad_(), REWARDS.clone().requires_grad_()
    a, v = torch.compile(function, fullgraph=True)(x)
    assert_allclose(a, og.advantages(REWARDS, "cvar:0.4"), atol=1e-13)
    expected = function(y)[1]
    assert_allclose(v.detach(), expected.detach(), atol=1e-13)
    v.sum().backward()
    expected.sum().backward()
    assert_allclose(x.grad, y.grad, atol=1e-13)


def test_compiled_from_the_first_call(tmp_path):
    """In a process that has not met a tensor before."""
    import subprocess
    import sys

    program = (
        "import ordergrad as og, torch\n"
        "f = torch.compile(lambda x: og.advantages(x, 'max@2'), fullgraph=True, backend='eager')\n"
        "print(f(torch.tensor([0.0, 1.0, 5.0])).tolist())\n"
    )
    script = tmp_path / "first.py"
    script.write_text(program)
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(og.advantages(torch.tensor([0.0, 1.0, 5.0]), "max@2").tolist())


@pytest.mark.parametrize("spec", ["mean", "max@3", "cvar:0.4"])
def test_function_transforms(spec):
    f = torch.func
    weights = torch.stack([f.grad(lambda r: og.value(r, spec))(row) for row in REWARDS])
    assert_allclose(f.vmap(f.grad(lambda r: og.value(r, spec)))(REWARDS), weights, atol=1e-15)
    assert_allclose(f.jacrev(lambda r: og.value(r, spec))(REWARDS)[0, 0], weights[0], atol=1e-15)
    _, tangent = f.jvp(lambda r: og.value(r, spec), (REWARDS,), (torch.ones_like(REWARDS),))
    assert_allclose(tangent, 1, atol=1e-14)
    nested = f.vmap(f.vmap(lambda r: og.advantages(r, spec)))(torch.stack([REWARDS, -REWARDS]))
    assert_allclose(nested[1], og.advantages(-REWARDS, spec), atol=1e-14)
    columns = f.vmap(lambda x: og.advantages(x, spec, axis=0), in_dims=1, out_dims=1)(torch.stack([REWARDS.T] * 2, 1))
    assert_allclose(columns[:, 0], og.advantages(REWARDS.T, spec, axis=0), atol=1e-14)
    masks = torch.arange(6) != torch.tensor([[1], [4]])
    masked = f.vmap(lambda r, m: og.advantages(r, spec, where=m))(REWARDS, masks)
    assert_allclose(masked, og.advantages(REWARDS, spec, where=masks), atol=1e-14)


def test_meta_and_other_devices_keep_their_device():
    x = torch.zeros(3, 6, device="meta")
    got = og.advantages(x, "max@3")
    assert got.device.type == "meta"
    assert got.shape == x.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_without_synchronisation(dtype):
    """After a first call, which moves the constants to the device."""
    host = REWARDS.to(dtype)
    x, mask = host.cuda(), torch.arange(6, device="cuda") != 2
    ids = np.arange(x.numel()) // 4
    calls = [
        lambda r, m: og.advantages(r, "max@3"),
        lambda r, m: og.value(r, "max@3"),
        lambda r, m: og.advantages(r, "max@3", where=m),
        lambda r, m: og.advantages(r, "max@3", sample_weight=torch.ones_like(r)),
        lambda r, m: og.group_advantages(r.flatten(), ids, "max@2", small="zero"),
    ]
    for call in calls:
        call(x, mask)
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        results = [call(x, mask) for call in calls]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for call, result in zip(calls, results, strict=True):
        assert result.device == x.device
        assert_allclose(result.cpu(), call(host, mask.cpu()), atol=1e-14 if dtype == torch.float64 else 1e-5)


def test_one_dataclass_is_one_constant():
    """Equal objectives, however they were written, are the same key."""
    assert_allclose(og.advantages(REWARDS, o.Max(3)), og.advantages(REWARDS, "max@3.0"), atol=0)
    assert_allclose(og.advantages(REWARDS, o.Max(np.int64(3))), og.advantages(REWARDS, "max@3"), atol=0)
