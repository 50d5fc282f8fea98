"""The GPU kernel on a CPU, through Triton's interpreter; run by `test_kernels_cuda.py` in a process of its own."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import ordergrad as og
from ordergrad.backends import torch as backend
from ordergrad.kernels import cuda

BASELINES = ["leave_one_out", "k_minus_one", "none"]
WIDTHS = [29, 41]
"""Of a group in a thread, and of one in a block."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),  # beyond the groups, never stored
]


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Count the launches; CPU tensors go the way of those on a GPU."""
    calls = []
    launch = cuda._launch
    monkeypatch.setattr(cuda, "_launch", lambda *a, **k: calls.append(k) or launch(*a, **k))
    monkeypatch.setattr(backend, "_has_triton_device", lambda x: True)
    monkeypatch.setattr(backend, "_readable", lambda x: False)
    return calls


def tied(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(-6, 7, shape).astype(np.float32) / 4)


def reference(rewards, spec, **options):
    return og.advantages(rewards.double().numpy(), spec, **options)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("n", [2, 3, 8, 13, 17, 32, 33, 64])
def test_groups(launched, n, baseline):
    for count, spec in ((1, "mean"), (3, "cvar:0.4"), (33 if n <= cuda.IN_A_THREAD else 4, "max@2")):
        x = tied((count, n), n)
        if n == 2 and spec == "max@2":
            continue
        got = og.advantages(x, spec, baseline=baseline)
        assert len(launched) == 1
        launched.clear()
        assert_allclose(got, reference(x, spec, baseline=baseline), atol=2e-5)


@pytest.mark.parametrize("n", WIDTHS)
def test_a_group_of_one_is_not_a_number_wherever_its_sample_is(launched, n):
    mask = torch.eye(n, dtype=torch.bool)[:: n // 4]
    for small, expected in (("error", np.nan), ("zero", 0.0)):
        got = og.advantages(tied(mask.shape), "max@2", where=mask, small=small)
        assert_array_equal(got, np.where(mask, expected, 0.0))
    assert len(launched) == 2


def test_many_large_groups(launched):
    x = tied((17, 64))
    assert_allclose(og.advantages(x, "max@2"), reference(x, "max@2"), atol=2e-5)
    assert len(launched) == 1


def test_a_large_group_and_one_too_large(launched):
    x = tied((1, cuda.LARGEST))
    assert_allclose(og.advantages(x, "cvar:0.1"), reference(x, "cvar:0.1"), atol=2e-4)
    assert len(launched) == 1
    og.advantages(tied((1, cuda.LARGEST + 1)), "mean")
    og.advantages(tied((2, 8)).double(), "mean")
    assert len(launched) == 1


@pytest.mark.parametrize("n", WIDTHS)
def test_ties_are_equal_and_equal_rewards_zero(n):
    x = tied((5, n))
    x = torch.where((x == 0) & (torch.arange(n) % 2 == 0), -0.0, x)
    got = og.advantages(x, "cvar:0.37@11").numpy()
    for rewards, a in zip(x.numpy(), got, strict=True):
        for reward in np.unique(rewards):
            assert len(np.unique(a[rewards == reward])) == 1
    assert_array_equal(og.advantages(torch.full((3, n), 0.1), "cvar:0.3"), 0)
    shifted = og.advantages(x + 64, "cvar:0.37@11")
    assert_array_equal(shifted, got)


@pytest.mark.parametrize("n", WIDTHS)
def test_an_outlier_that_has_no_weight_costs_no_accuracy(n):
    x = tied((3, n))
    x[:, 3] = -1e9
    got = og.advantages(x, "top:1@3")
    assert_allclose(got, reference(x, "top:1@3"), atol=1e-5 * 1e9 * 3 / (n * (n - 1) * (n - 2)) + 1e-5)


@pytest.mark.parametrize(("n", "count"), [(9, 40), (40, 8)])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("small", ["zero", "shrink"])
def test_masks(launched, small, baseline, n, count):
    x, mask = (
        tied((count, n), 1),
        torch.from_numpy(np.random.default_rng(2).random((count, n)) < np.linspace(0, 1, count)[:, None]),
    )
    x[~mask] = float("nan")
    got = og.advantages(x, "max@3", where=mask, baseline=baseline, small=small)
    assert launched[0]["masked"]
    expected = og.advantages(x.double().numpy(), "max@3", where=mask.numpy(), baseline=baseline, small=small)
    assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("n", WIDTHS)
def test_not_a_number_stays_in_its_group(n):
    x = tied((5, n))
    x[1, 2] = float("nan")
    x[2, 0] = float("inf")
    x[3, -1] = -float("inf")
    x[4, 1] = torch.tensor(-1, dtype=torch.int32).view(torch.float32)
    got = cuda.scan_groups(x, None, torch.ones(n - 1), torch.zeros(n - 1), torch.tensor(0.0)).numpy()
    assert np.isfinite(got[0]).all()
    assert not np.isfinite(got[1:]).any()


def test_ragged_groups_take_a_launch_for_each_octave(launched):
    rng = np.random.default_rng(0)
    sizes = np.append(rng.integers(3, 18, 10), [31, 40, 65])
    ids = rng.permutation(np.repeat(np.arange(13), sizes))
    x = tied(len(ids))
    for spec, small in (("max@2", "error"), ("cvar:0.3", "zero"), ("max@9", "shrink")):
        launched.clear()
        got = og.group_advantages(x, ids, spec, small=small)
        assert len(launched) == len(np.unique(np.ceil(np.log2(sizes))))
        assert_allclose(got, og.group_advantages(x.double().numpy(), ids, spec, small=small), atol=3e-5)
    mask = torch.from_numpy(rng.random(len(ids)) < 0.7)
    got = og.group_advantages(x, ids, "max@2", where=mask, small="shrink")
    assert_allclose(
        got, og.group_advantages(x.double().numpy(), ids, "max@2", where=mask.numpy(), small="shrink"), atol=1e-5
    )


@pytest.mark.parametrize("backend_name", ["eager", "aot_eager"])
def test_compiled(launched, backend_name):
    x, mask = tied((4, 6)), torch.arange(6) != 2
    torch._dynamo.reset()
    run = torch.compile(
        lambda x: (og.advantages(x, "max@2"), og.advantages(x, "max@2", where=mask)),
        fullgraph=True,
        backend=backend_name,
    )
    plain, masked = run(x)
    assert len(launched) == 2
    assert_allclose(plain, reference(x, "max@2"), atol=1e-6)
    assert_allclose(masked, reference(x, "max@2", where=mask.numpy()), atol=1e-6)


def test_mapped(launched):
    x, masks = tied((4, 6)), torch.arange(6) != torch.tensor([[1], [2], [3], [0]])
    expected = reference(x, "max@2", where=masks.numpy())
    assert_allclose(torch.func.vmap(lambda x: og.advantages(x, "max@2"))(x), reference(x, "max@2"), atol=1e-6)
    both = torch.func.vmap(lambda x, m: og.advantages(x, "max@2", where=m))(x, masks)
    assert_allclose(both, expected, atol=1e-6)
    one = torch.func.vmap(lambda m: og.advantages(x, "max@2", where=m))(masks)
    assert_allclose(one[1], reference(x, "max@2", where=masks[1].numpy()), atol=1e-6)
    assert launched


def test_the_operator_keeps_its_promises():
    x, mask = tied((4, 6)), torch.arange(6) != 2
    one = (torch.ones(5), torch.zeros(5), torch.zeros(1))
    rows = (torch.ones(35), torch.zeros(35), torch.zeros(7))
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(cuda._operator, (x, None, *one), test_utils=tests)
    torch.library.opcheck(cuda._operator, (x, mask.expand(4, 6), *rows), test_utils=tests)


def test_gradients_go_the_other_way(launched):
    x = tied((2, 6)).requires_grad_()
    og.include_one(x, "max@2").sum().backward()
    assert x.grad is not None
    assert not launched
    assert not og.advantages(x, "max@2").requires_grad
    assert len(launched) == 1
