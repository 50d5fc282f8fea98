"""The compiled CPU kernel gives what the generic path gives, from any thread and process, and never gets in the way."""

import multiprocessing
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
from ordergrad import backend
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
        patch.setattr(backend, "_cpu_kernel", lambda size: None)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_waited", 0.0)
        traced = torch.jit.trace(lambda r: og.advantages(r, "max@3"), torch.rand(6, 9), check_trace=False)
    x = torch.rand(6, 9)
    assert_allclose(traced(x), og.advantages(x, "max@3"), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_the_sizes_of_traced_tensors_are_not_counted():
    from torch.fx.experimental.proxy_tensor import make_fx

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_kernels", {})
        patch.setattr(backend, "_waited", 0.0)
        torch.jit.trace(lambda r: og.advantages(r, "max@3"), torch.rand(6, 9), check_trace=False)
        make_fx(lambda r: og.advantages(r, "max@3"), tracing_mode="symbolic")(torch.rand(6, 9))
        assert type(backend._waited) is float
        og.advantages(torch.rand(6, 9), "max@3")
        assert 0 < backend._waited < 1e-3


# Threads and processes

BIG = np.random.default_rng(0).normal(size=(9000, 33))


@pytest.mark.parametrize("n", [33, 300])
def test_any_number_of_threads_gives_the_same_bits(n):
    x = BIG.reshape(-1)[: BIG.size // n * n].reshape(-1, n)
    scan = cpu.Weights(np.linspace(0, 1, n - 1), np.zeros(n - 1), np.zeros(1))
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


@forks
@forks_with_threads
def test_a_process_forked_while_a_thread_looks_up_constants():
    expected = og.advantages(BIG, "max@4")
    with backend._CONSTANTS._lock:
        got = forked(_in_a_child)
    assert_array_equal(got, expected)


@forks
@forks_with_threads
def test_a_process_forked_while_a_thread_compiles():
    compiling = Event()

    def compile_something():
        with global_compiler_lock:
            compiling.set()
            time.sleep(0.3)

    thread = Thread(target=compile_something)
    thread.start()
    compiling.wait()
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


def run(program):
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return out.stdout.strip()


def test_small_calls_do_not_load_it_and_much_work_does():
    program = (
        "import sys, numpy as np, ordergrad as og\n"
        "x = np.zeros((64, 16)); og.advantages(x, 'mean'); print('numba' in sys.modules)\n"
        "y = np.zeros((1 << 18, 16)); [og.advantages(y, 'mean') for _ in range(9)]\n"
        "print('ordergrad.kernels.cpu' in sys.modules)"
    )
    assert run(program).split() == ["False", "True"]


def test_without_numba_everything_works():
    program = (
        "import sys, warnings; sys.modules['numba'] = None; warnings.simplefilter('error')\n"
        "import numpy as np, ordergrad as og; from ordergrad import backend\n"
        "y = np.zeros((1 << 18, 16)); [og.advantages(y, 'mean') for _ in range(9)]\n"
        "print('ordergrad.kernels.cpu' in sys.modules, og.advantages([0.0, 1.0], 'mean').tolist())"
    )
    assert run(program) == "False [-1.0, 1.0]"


LOADING = """
import os, signal, sys, threading, time, warnings, numpy as np, ordergrad as og
from ordergrad import backend

x = np.random.default_rng(0).normal(size=(8, 16))
expected = og.advantages(x, 'max@4')

def right():
    return np.allclose(og.advantages(x, 'max@4'), expected, rtol=0, atol=1e-13)

def loaded():
    return backend._cpu_kernel(1) is not None

backend._waited = 1.0  # as after a second of work
"""
HALFWAY = f"""{LOADING}
halfway, go_on = threading.Event(), threading.Event()

def halt(event, arguments):
    if event == 'import' and arguments[0] == 'llvmlite':
        halfway.set()
        go_on.wait(10)

sys.addaudithook(halt)
"""
"""The import of Numba stands still until it may go on."""


def test_calls_while_another_thread_loads_it():
    program = f"""{HALFWAY}
thread = threading.Thread(target=right)
thread.start()
halfway.wait()
print('ordergrad.kernels.cpu' in sys.modules, right(), loaded(), go_on.is_set())
go_on.set()
thread.join()
print(right(), loaded())
"""
    assert run(program).split() == ["True", "True", "False", "False", "True", "True"]


@forks
def test_a_process_forked_while_a_thread_loads_it():
    program = f"""{HALFWAY}
warnings.simplefilter('ignore')  # of forks of several threads
thread = threading.Thread(target=right)
thread.start()
halfway.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if right() and not loaded() and right() else 1)
print(os.waitpid(child, 0)[1], go_on.is_set())
go_on.set()
thread.join()
print(right(), loaded())
"""
    assert run(program).split() == ["0", "False", "True", "True"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal to the own process")
def test_an_interrupt_while_it_is_loaded():
    """Numba cannot be imported again after half an import."""
    program = f"""{HALFWAY}
def interrupt():
    halfway.wait()
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    og.advantages(x, 'max@4')
except KeyboardInterrupt:
    print('interrupted', go_on.is_set())
print(right(), loaded())
go_on.set()
while not loaded():
    time.sleep(0.01)
print(right())
"""
    assert run(program).split() == ["interrupted", "False", "True", "False", "True"]


def test_a_kernel_that_does_not_load_is_reported_once():
    program = f"""{LOADING}
def fail(event, arguments):
    if event == 'import' and arguments[0] == 'llvmlite':
        raise OSError('no such library')

sys.addaudithook(fail)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    print(right(), right(), loaded())
for w in caught:
    print(w.category.__name__, w.filename, w.message)
"""
    assert run(program).splitlines() == [
        "True True False",
        "RuntimeWarning <string> the compiled kernel cannot be loaded, and large arrays take longer without it: "
        "OSError('no such library')",
    ]


def test_without_a_folder_for_what_is_compiled():
    program = f"""import os
os.environ['NUMBA_CACHE_LOCATOR_CLASSES'] = '_ZipCacheLocator'  # which has none for a file on disk
{LOADING}
warnings.simplefilter('error')
print(right(), loaded(), right())
"""
    assert run(program) == "True True True"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_without_room_for_what_is_compiled(tmp_path):
    program = f"""import os, resource
os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}
{LOADING}
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(all([right() for _ in range(8)]), loaded())
"""
    assert run(program) == "True True"


def test_what_is_compiled_is_kept(tmp_path):
    program = f"""import os
os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}
{LOADING}
print(right(), loaded())
"""
    assert run(program) == "True True"
    assert list(tmp_path.rglob("cpu._lanes-*.nbc"))
