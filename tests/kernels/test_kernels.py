"""The compiled CPU kernel gives what the generic path gives, from any thread and process, and never gets in the way."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba.core.compiler_lock import global_compiler_lock
from numpy.testing import assert_allclose, assert_array_equal
from strategies import groups, objectives

import ordergrad as og
from ordergrad.backends import host
from ordergrad.backends.cache import CONSTANTS
from ordergrad.kernels import cpu

EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
SIZES = [1, 2, 3, 5, 8, 16, 17, 31, 64, 127, 128, 129, 200, 1000]
QUANTITIES = {
    "leave_one_out": og.advantages,
    "k_minus_one": lambda x, o, **options: og.advantages(x, o, baseline="k_minus_one", **options),
    "none": lambda x, o, **options: og.advantages(x, o, baseline="none", **options),
    "include_one": og.include_one,
    "excluded": og.leave_one_out,
    "error": lambda x, o, **options: og.value_and_error(x, o, **options)[1],
}


def generic(function, *arguments, **options):
    """Call a function with the kernel out of reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "kernel", lambda: None)
        return function(*arguments, **options)


@pytest.fixture
def counted(monkeypatch):
    """Record which entry of the kernel is called, and whether it had an answer."""
    calls = []
    for name in ("scan_groups", "scan_ragged"):
        original = getattr(cpu, name)

        def record(*arguments, name=name, original=original):
            result = original(*arguments)
            calls.append((name, result is not None))
            return result

        monkeypatch.setattr(cpu, name, record)
    return calls


def assert_same(got, expected, x, dtype):
    scale = np.abs(expected).max(initial=0) + np.abs(x).max(initial=0)
    assert got.dtype == dtype
    assert got.shape == expected.shape
    assert_allclose(got, expected, rtol=0, atol=256 * EPS[dtype] * scale)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("n", SIZES)
def test_equals_the_generic_path(counted, n, dtype):
    rng = np.random.default_rng(n)
    for count in (1, 15, 16, 33):
        for x in (rng.normal(size=(count, n)), rng.integers(-2, 3, (count, n)) / 4):
            x = x.astype(dtype)
            for name, function in QUANTITIES.items():
                spec = "mean" if n < 4 else "0.7*cvar:0.3@2.5-mean"
                if n == 1 and name not in ("none", "include_one"):
                    continue
                if n == 2 and name == "k_minus_one":
                    spec = "max@2"
                counted.clear()
                got = function(x, spec)
                assert counted == [("scan_groups", True)]
                assert_same(got, generic(function, x.astype(np.float64), spec), x, dtype)


@given(rewards=groups(7, 3), objective=objectives(6), name=st.sampled_from(sorted(QUANTITIES)))
def test_any_objective_and_rewards(rewards, objective, name):
    got, expected = QUANTITIES[name](rewards, objective), generic(QUANTITIES[name], rewards, objective)
    assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("n", [6, 40, 129, 700])
def test_ties_zeros_and_shifts_are_exact(n, dtype):
    x = (np.random.default_rng(0).integers(-6, 7, (20, n)) / 4).astype(dtype)
    a = og.advantages(x, "cvar:0.37@5")
    for rewards, own in zip(x, a, strict=True):
        for reward in np.unique(rewards):
            assert len(np.unique(own[rewards == reward])) == 1
    assert_array_equal(og.advantages(x + 64, "cvar:0.37@5"), a)
    assert_array_equal(og.advantages(np.full((20, n), 0.1, dtype), "cvar:0.37@5"), 0)
    signed = np.where(np.arange(n) % 2, 0.0, -0.0).astype(dtype)
    assert_array_equal(og.advantages(signed, "cvar:0.37@5"), 0)


HARD = {
    "an outlier": lambda rng, n: np.append(rng.normal(size=n - 1), -1e18),
    "two clusters": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, 1e12) + rng.normal(size=n),
    "neighbours": lambda rng, n: np.append(0.0, 1e6 + rng.permutation(n - 1) * 2.0**-32),
    "descending": lambda rng, n: np.append(0.0, 1e9 - np.arange(n - 1) * 2.0**-22),
    "tiny": lambda rng, n: rng.normal(size=n) * 1e-310,
    "wide": lambda rng, n: np.exp(rng.normal(size=n) * 200),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("n", [200, 5000])
def test_float64_rewards_that_agree_in_their_upper_bits(counted, kind, n):
    x = HARD[kind](np.random.default_rng(0), n)
    got = og.advantages(x, "median@9")
    assert counted == [("scan_groups", True)]
    expected = generic(og.advantages, x, "median@9")
    assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    order = np.argsort(x, kind="stable")
    assert (np.diff(got[order]) >= 0).all()


def test_rewards_out_of_order_are_put_right_or_sorted_anew():
    """Both ways are taken: a few moves for neighbours, an argsort for many."""
    n = 4096
    starts, sizes, groups = np.zeros(1, np.int64), np.full(1, n), np.zeros(1, np.int64)
    for x, expected in (
        (HARD["an outlier"](np.random.default_rng(0), n), True),
        (np.random.default_rng(0).normal(size=n), False),
    ):
        keys, values = np.empty((1, n), np.int64), np.empty((1, n))
        cpu._keys_of_float64(x, None, starts, sizes, groups, 12, keys, keys.view(np.float64))
        keys.sort(axis=1)
        assert bool(cpu._values_of_float64(x, None, starts, sizes, groups, 12, keys, values)[0]) == expected
        assert expected or (np.diff(values[0]) >= 0).all()


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 5, 300])
def test_rewards_that_are_not_finite_raise(n, bad, dtype):
    x = np.random.default_rng(0).normal(size=(40, n)).astype(dtype)
    x[37, n // 2] = bad
    with pytest.raises(ValueError, match="rewards must be finite"):
        og.advantages(x, "mean", baseline="none")
    with pytest.raises(ValueError, match="rewards must be finite"):
        og.advantages(x, "mean", baseline="none", where=np.ones((40, n), bool))
    got = og.advantages(x, "mean", baseline="none", where=np.isfinite(x), small="zero")
    assert np.isfinite(got).all()
    assert got[37, n // 2] == 0


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("n", [3, 5000])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_sums_that_overflow_are_an_error(n, dtype):
    x = np.ones((2, n), dtype)
    x[1] = 0.9 * np.finfo(dtype).max
    x[1, : n // 2] *= -1
    for function in (og.advantages, generic):
        with pytest.raises(ValueError, match="rewards must lie closer together"):
            function(*[og.advantages][: function is generic], x, "mean")


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")  # the error of no sample at all
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("small", ["zero", "shrink"])
@pytest.mark.parametrize("n", [7, 16, 90, 160])
def test_masks(counted, n, small, dtype):
    rng = np.random.default_rng(n)
    x, mask = rng.normal(size=(3, 21, n)).astype(dtype), rng.random((3, 21, n)) < rng.random((3, 21, 1))
    for name, function in QUANTITIES.items():
        choice = {"small": "nan" if small == "zero" and name in ("include_one", "excluded", "error") else small}
        counted.clear()
        got = function(x, "cvar:0.3@4", where=mask, **choice)
        expected = generic(function, x.astype(np.float64), "cvar:0.3@4", where=mask, **choice)
        if not np.isnan(expected).any():
            assert counted == [("scan_ragged", True)]
        assert_array_equal(np.isnan(got), np.isnan(expected))
        assert_same(np.nan_to_num(got), np.nan_to_num(expected), x, dtype)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("baseline", ["leave_one_out", "k_minus_one", "none"])
def test_ragged_groups(counted, baseline, dtype):
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(1, 40, 300), rng.integers(100, 400, 12), [128, 129, 40_000]])
    ids = rng.permutation(np.repeat(rng.permutation(len(sizes)), sizes))
    x = rng.normal(size=len(ids)).astype(dtype)
    for where in (None, rng.random(len(ids)) < 0.8, ids % 7 != 3):
        for small in ("zero", "shrink"):
            counted.clear()
            got = og.group_advantages(x, ids, "cvar:0.3@4", where=where, baseline=baseline, small=small)
            assert counted == [("scan_ragged", True)]
            for g in range(0, len(sizes), 5):
                own = {} if where is None else {"where": where[ids == g]}
                alone = generic(og.advantages, x[ids == g], "cvar:0.3@4", baseline=baseline, small=small, **own)
                assert_same(got[ids == g], alone, x, dtype)


def test_parts_of_large_groups_are_all_of_them_and_bounded():
    sizes = np.sort(np.random.default_rng(0).integers(129, 60_000, 500))
    parts = cpu._parts(sizes)
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == len(sizes)
    assert all(last - first == 1 or sizes[last - 1] * (last - first) <= cpu.PART for first, last in parts)


@pytest.mark.parametrize("n", range(1, 34))
def test_networks_sort_zeros_and_ones(n):
    """By the zero-one principle that proves that they sort anything; here all of them, or many."""
    rng = np.random.default_rng(n)
    rows = np.arange(1 << n)[:, None] >> np.arange(n) & 1 if n <= 12 else rng.integers(0, 2, (4096, n))
    for low, high in cpu._network(n).tolist():
        assert low < high
        rows[:, low], rows[:, high] = np.minimum(rows[:, low], rows[:, high]), np.maximum(rows[:, low], rows[:, high])
    assert (np.diff(rows) >= 0).all()


# Arrays of all kinds


def test_views_byte_orders_and_other_dtypes(counted):
    wide = np.random.default_rng(0).normal(size=(12, 40))
    wide.flags.writeable = False
    view = wide.T[::2, ::-2]
    expected = generic(og.advantages, view, "max@3")
    assert_allclose(og.advantages(view, "max@3"), expected, atol=1e-14)
    assert_allclose(og.advantages(view.T, "max@3", axis=0), expected.T, atol=1e-14)
    assert_allclose(og.advantages(view.astype(">f8"), "max@3"), expected, atol=1e-14)
    assert_allclose(og.advantages(view.astype(np.longdouble), "max@3").astype(float), expected, atol=1e-14)
    assert og.advantages(np.zeros((0, 4)), "mean").shape == (0, 4)
    assert og.advantages(np.zeros((3, 4), np.float16), "mean").dtype == np.float16
    assert len(counted) == 3


def test_tensors(counted):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 9)))
    expected = generic(og.advantages, x.numpy(), "max@3")
    for tensor in (x, x.clone().requires_grad_(), x.T.contiguous().T, torch.nn.Parameter(x.clone())):
        got = og.advantages(tensor, "max@3")
        assert isinstance(got, torch.Tensor)
        assert not got.requires_grad
        assert_allclose(got, expected, atol=1e-14)
    assert len(counted) == 4
    assert_allclose(og.advantages(x, "max@3", where=x < 2), generic(og.advantages, x, "max@3", where=x < 2), atol=1e-14)
    with torch.inference_mode():
        assert_allclose(og.advantages(x, "max@3"), expected, atol=1e-14)
    assert len(counted) == 6


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_tensors_that_something_else_looks_at_go_the_generic_way(counted):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 9)))
    expected = generic(og.advantages, x.numpy(), "max@3")
    torch.func.vmap(lambda r: og.advantages(r, "max@3"))(x)
    torch.func.vmap(lambda m: og.advantages(x, "max@3", where=m))(torch.ones(2, 6, 9, dtype=torch.bool))
    torch.func.jvp(lambda r: og.include_one(r, "max@3"), (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(og.include_one(dual, "mean")).tangent
        assert_allclose(tangent, 1, atol=1e-14)
    assert og.include_one(x.clone().requires_grad_(), "max@3").requires_grad
    with FakeTensorMode() as mode:
        assert og.advantages(mode.from_tensor(x), "max@3").shape == x.shape
    for early in (False, True):
        graph = make_fx(lambda r: og.advantages(r, "max@3"), pre_dispatch=early)(torch.zeros_like(x))
        assert_allclose(graph(x), expected, atol=1e-14)
    torch._dynamo.reset()
    run = torch.compile(lambda r: og.advantages(r, "max@3"), fullgraph=True, backend="eager")
    assert_allclose(run(x), expected, atol=1e-14)
    assert not counted


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_function_is_not_a_constant():
    traced = torch.jit.trace(lambda r: og.advantages(r, "max@3"), torch.rand(6, 9), check_trace=False)
    x = torch.rand(6, 9)
    assert_allclose(traced(x), og.advantages(x, "max@3"), atol=1e-6)


# Threads and processes

BIG = np.random.default_rng(0).normal(size=(9000, 33))


@pytest.mark.parametrize("n", [33, 300])
def test_any_number_of_threads_gives_the_same_bits(n):
    x = BIG.reshape(-1)[: BIG.size // n * n].reshape(-1, n)
    scan = cpu.Scans(np.linspace(0, 1, n - 1), np.zeros(n - 1), np.zeros(1))
    one = cpu.scan_groups(x, scan, 1)
    for threads in (2, 3, 8):
        assert_array_equal(cpu.scan_groups(x, scan, threads), one)


def test_calls_from_many_threads(monkeypatch):
    monkeypatch.setattr(cpu, "default_threads", lambda: 3)
    expected = og.advantages(BIG, "max@4")
    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(lambda _: og.advantages(BIG, "max@4"), range(24)):
            assert_array_equal(got, expected)


def _in_a_child(pipe):
    pipe.send(og.advantages(BIG, "max@4"))


def _compile_in_a_child(pipe):
    with global_compiler_lock:
        pipe.send(True)


def forked(target):
    """Return what a forked process sends."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    child = fork.Process(target=target, args=(there,))
    child.start()
    try:
        assert here.poll(60), "the child hangs"
        return here.recv()
    finally:
        child.kill()
        child.join()


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
forks_with_threads = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")


@forks
@forks_with_threads
def test_a_forked_process(monkeypatch):
    monkeypatch.setattr(cpu, "default_threads", lambda: 2)
    expected = og.advantages(BIG, "max@4")
    assert_array_equal(forked(_in_a_child), expected)


def held(lock, seconds=0.3):
    """Hold a lock in a thread for a while."""
    holding = Event()

    def hold():
        with lock:
            holding.set()
            time.sleep(seconds)

    thread = Thread(target=hold)
    thread.start()
    holding.wait()
    return thread


@forks
@forks_with_threads
def test_a_process_forked_while_a_thread_looks_up_constants():
    expected = og.advantages(BIG, "max@4")
    thread = held(CONSTANTS._lock)
    assert_array_equal(forked(_in_a_child), expected)
    thread.join()


@forks
@forks_with_threads
def test_a_process_forked_while_a_thread_compiles():
    og.advantages(BIG, "max@4")
    thread = held(cpu.compiler_lock)
    assert forked(_compile_in_a_child)
    thread.join()


def test_a_failing_part_raises():
    def fail(first, last):
        raise RuntimeError(f"{first}")

    with pytest.raises(RuntimeError):
        cpu._spread(fail, 10, 1, 3)
    assert cpu._spread(lambda first, last: float(last - first), 10, 3, 2) == 10


def test_a_large_call_while_the_interpreter_shuts_down():
    program = (
        "import atexit, numpy as np, ordergrad as og; from ordergrad.kernels import cpu\n"
        "x = np.zeros((9000, 33)); cpu.default_threads = lambda: 2\n"
        "atexit.register(lambda: print(og.advantages(x, 'mean').sum()))"
    )
    assert run(program) == "0.0"


def test_threads_follow_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cpu.default_threads.cache_clear()
    assert cpu.default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    cpu.default_threads.cache_clear()
    assert cpu.default_threads() >= 1
    cpu.default_threads.cache_clear()


# Loading


def run(program, **environment):
    """Return what a program prints in a process of its own; one that hangs fails."""
    environment = {**os.environ, **environment}
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, env=environment, check=False
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout.strip()


def test_the_first_call_that_it_can_serve_loads_it():
    program = (
        "import sys, numpy as np, ordergrad as og\n"
        "x = np.zeros((64, 16)); og.value(x, 'mean'); print('numba' in sys.modules)\n"
        "og.advantages(x, 'mean'); print('ordergrad.kernels.cpu' in sys.modules)"
    )
    assert run(program).split() == ["False", "True"]


def test_without_numba_everything_works():
    program = (
        "import sys, warnings; sys.modules['numba'] = None; warnings.simplefilter('error')\n"
        "import numpy as np, ordergrad as og\n"
        "og.advantages(np.zeros((9, 16)), 'mean')\n"
        "print('ordergrad.kernels.cpu' in sys.modules, og.advantages([0.0, 1.0], 'mean').tolist())"
    )
    assert run(program) == "False [-1.0, 1.0]"


START = """
import hashlib, multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np, ordergrad as og
from ordergrad.backends import host

warnings.simplefilter('ignore', DeprecationWarning)  # of forks of several threads
x = np.random.default_rng(0).normal(size=(40, 37))
mask = x < 1.5
ids = np.arange(x.size) % 77

def bits():
    "A digest of every path: rows, masks, ragged groups, values, both dtypes."
    digest = hashlib.sha256()
    for y in (x, x.astype('f4'), np.tile(x, (1, 9))):
        digest.update(og.advantages(y, 'cvar:0.3').tobytes())
        digest.update(og.value(y, 'cvar:0.3').tobytes())
    digest.update(og.advantages(x, 'cvar:0.3', where=mask).tobytes())
    digest.update(og.group_advantages(x.reshape(-1), ids, 'max@4').tobytes())
    return digest.hexdigest()

def one():
    "A digest of one path, of which there is one function to compile."
    return hashlib.sha256(og.advantages(x, 'cvar:0.3').tobytes()).hexdigest()
"""


@pytest.fixture(scope="module")
def digest():
    """The bits of a fresh process that does nothing else."""
    return run(f"{START}\nprint(bits())")


HISTORIES = {
    "many calls": (
        "[og.advantages(np.random.default_rng(1).normal(size=(20000, 64)), 'cvar:0.1') for _ in range(5)]",
        "2",
    ),
    "other sizes first": ("[og.advantages(np.arange(float(n)), 'max@2') for n in range(3, 400)]", "7"),
    "values only": ("og.value(x, 'median')", "1"),
}
"""What a process does before, and its number of threads."""


@pytest.mark.parametrize(("before", "threads"), HISTORIES.values(), ids=HISTORIES)
def test_the_same_bits_after_anything_with_any_number_of_threads(digest, before, threads):
    assert run(f"{START}\n{before}\nprint(bits())", OMP_NUM_THREADS=threads) == digest


@forks
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_same_bits_in_parent_and_child(digest, when):
    program = f"""{START}
if {when == "after"}: bits()
read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(100)
    os.write(write, bits().encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(read, 100).decode(), bits())
"""
    assert run(program).split() == [digest, digest]


CHILD = """
import sys
import hashlib, numpy as np, ordergrad as og
def work(seed):
    return hashlib.sha256(og.advantages(np.random.default_rng(seed).normal(size=(2000, 37)), 'cvar:0.3')).hexdigest()
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pools_of_every_start_method(tmp_path, method):
    (tmp_path / "own_work.py").write_text(CHILD)
    program = f"""
import multiprocessing, sys
sys.path.insert(0, {str(tmp_path)!r})
import own_work
if __name__ == '__main__':
    expected = [own_work.work(seed) for seed in range(3)]
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(pool.map_async(own_work.work, range(3)).get(120) == expected)
"""
    script = tmp_path / "main.py"
    script.write_text(program)
    out = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, timeout=170)
    assert out.stdout.strip() == "True", out.stderr


def test_the_same_bits_after_torch_and_in_workers_of_a_data_loader(digest):
    program = f"""{START}
import torch
og.advantages(torch.zeros(3, 4), 'mean')
print(bits())
class Groups(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return og.advantages(torch.arange(999.0) * (i + 1) % 97, 'cvar:0.3')
expected = torch.stack([Groups()[i] for i in range(4)])
loader = torch.utils.data.DataLoader(Groups(), batch_size=2, num_workers=2, timeout=100)
print(torch.equal(torch.cat(list(loader)), expected))
"""
    assert run(program).split() == [digest, "True"]


@forks
def test_a_thread_computes_while_the_process_forks():
    """A forked child that does nothing stopped the computing thread for good when its BLAS had threads."""
    program = f"""{START}
calls = [0]
def learn():
    rewards = np.random.default_rng(0).normal(size=(1024, 16))
    while True:
        og.advantages(rewards, 'cvar:0.1'); og.value(rewards, 'cvar:0.1')
        calls[0] += 1
threading.Thread(target=learn, daemon=True).start()
while not calls[0]:
    time.sleep(0.01)
children = [multiprocessing.get_context('fork').Process(target=time.sleep, args=(0.1,)) for _ in range(4)]
[child.start() for child in children]
[child.join() for child in children]
before, deadline = calls[0], time.time() + 60
while calls[0] < before + 20 and time.time() < deadline:
    time.sleep(0.01)
print(calls[0] >= before + 20, flush=True)
os._exit(0)
"""
    assert run(program) == "True"


HALFWAY = f"""{START}
halfway, go_on = threading.Event(), threading.Event()

def halt(event, arguments):
    if event == 'import' and arguments[0] == 'llvmlite':
        halfway.set()
        go_on.wait(10)

sys.addaudithook(halt)

def later():
    halfway.wait()
    time.sleep(0.2)
    go_on.set()
"""
"""The import of Numba stands still until it may go on."""


def test_calls_while_another_thread_loads_it(digest):
    program = f"""{HALFWAY}
results = []
threads = [threading.Thread(target=lambda: results.append(bits())) for _ in range(3)]
[thread.start() for thread in threads]
later()
[thread.join() for thread in threads]
print(*results)
"""
    assert run(program).split() == [digest] * 3


@forks
def test_a_process_forked_while_a_thread_loads_it(digest):
    """The fork waits: the child could never end the import."""
    program = f"""{HALFWAY}
threading.Thread(target=bits).start()
threading.Thread(target=later).start()
halfway.wait()
read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(100)
    os.write(write, bits().encode())
    os._exit(0)
print(go_on.is_set(), os.waitpid(child, 0)[1], os.read(read, 100).decode(), bits())
"""
    assert run(program).split() == ["True", "0", digest, digest]


signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")


@signals
def test_an_interrupt_while_it_is_loaded(digest):
    """Numba cannot be imported again after half an import."""
    program = f"""{HALFWAY}
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
threading.Thread(target=lambda: (halfway.wait(), os.kill(os.getpid(), signal.SIGINT))).start()
try:
    bits()
except KeyboardInterrupt:
    print('interrupted', go_on.is_set())
go_on.set()
print(bits())
"""
    assert run(program).split() == ["interrupted", "False", digest]


@signals
def test_a_signal_handler_that_computes_while_it_is_loaded(digest):
    program = f"""{HALFWAY}
threading.Thread(target=later).start()
found = []
signal.signal(signal.SIGALRM, lambda *_: found.append(bits()))
threading.Thread(target=lambda: (halfway.wait(), os.kill(os.getpid(), signal.SIGALRM))).start()
print(bits(), *found)
"""
    assert run(program).split() == [digest, digest]


@signals
def test_a_signal_handler_that_computes_during_calls(digest):
    """Whatever the interrupted call holds, in its caches and queues, the handler does not wait for it."""
    program = f"""{START}
expected, found = bits(), set()
signal.signal(signal.SIGALRM, lambda *_: found.add(bits()))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.02)
end = time.time() + 3
while time.time() < end or not found:
    assert bits() == expected
signal.setitimer(signal.ITIMER_REAL, 0)
print(expected, *found)
"""
    assert run(program, OMP_NUM_THREADS="3").split() == [digest, digest]


def test_a_kernel_that_does_not_load_is_reported_once():
    program = f"""{START}
def fail(event, arguments):
    if event == 'import' and arguments[0] == 'llvmlite':
        raise OSError('no such library')

sys.addaudithook(fail)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    print(bits() == bits(), host.kernel())
for w in caught:
    print(w.category.__name__, w.message)
"""
    assert run(program).splitlines() == [
        "True None",
        "RuntimeWarning the compiled kernel cannot be loaded, and calls take longer without it: "
        "OSError('no such library')",
    ]


@pytest.fixture(scope="module")
def digest_of_one():
    rewards = np.random.default_rng(0).normal(size=(40, 37))
    return hashlib.sha256(og.advantages(rewards, "cvar:0.3").tobytes()).hexdigest()


def test_without_a_folder_for_what_is_compiled(digest_of_one):
    program = f"""{START}
warnings.simplefilter('error')
print(one(), one())
"""
    locators = {"NUMBA_CACHE_LOCATOR_CLASSES": "_ZipCacheLocator"}  # which has none for a file on disk
    assert run(program, **locators).split() == [digest_of_one] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_without_room_for_what_is_compiled(digest_of_one, tmp_path):
    program = f"""import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{START}
print(one(), one())
"""
    assert run(program, NUMBA_CACHE_DIR=str(tmp_path)).split() == [digest_of_one] * 2


def test_what_is_compiled_is_kept_and_damage_does_no_harm(digest_of_one, tmp_path):
    for _ in range(2):
        assert run(f"{START}\nprint(one())", NUMBA_CACHE_DIR=str(tmp_path)) == digest_of_one
        kept = list(tmp_path.rglob("cpu._lanes-*.nb*"))
        assert len(kept) >= 2
        for file in kept:
            file.write_bytes(b"damaged")
