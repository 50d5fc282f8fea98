"""The layout keeps its promises: imports point one way, stay light, and __all__ is true."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ordergrad

SOURCE = Path(ordergrad.__file__).parent
CORE = [
    *("bernstein", "objectives", "smoothing", "spec", "weights", "backends", "arrays", "schedules"),
    *("exact", "estimators", "intervals", "groups"),
]
LAYERS = [
    *("extras", "conditions", "kernels", *CORE, "__init__", "envs", "wrappers", "adapters"),
    *("runs", "evaluate", "score", "train", "advise", "report", "commands", "__main__"),
]
"""Every module and package, from the bottom: each imports only what stands before it."""

ALONE = ["conditions", "extras", "kernels.cpu", "kernels.cuda"]
FRAMEWORKS = {"torch", "jax", "array_api_compat", "numba", "triton"}
LIGHT = [
    "torch",
    "jax",
    "numba",
    "triton",
    "typer",
    "rich",
    "matplotlib",
    "gymnasium",
    "stable_baselines3",
    "torchrl",
    "ray",
    "scipy.stats",
    "scipy.optimize",
]


def imports(path):
    """Return the modules that a file imports anywhere, with ``from a import b`` as a.b and as a."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(path):
    """Return the modules of the package that a file imports, as paths of names below ``ordergrad``."""
    found = set()
    for module in imports(path):
        root, *names = module.split(".")
        if root == "ordergrad":
            while names and not any(SOURCE.joinpath(*names).with_suffix(s).exists() for s in (".py", "")):
                names.pop()  # a name in a module
            found.add(tuple(names) or ("__init__",))
    return found


def modules(layer):
    """Return the files of a module or package."""
    folder = SOURCE / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_module_has_a_layer():
    assert {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer):
    allowed = {layer, *LAYERS[: LAYERS.index(layer)]}
    for path in modules(layer):
        up = {".".join(names) for names in own_imports(path) if names[0] not in allowed}
        if layer in CORE:
            up -= {"__init__"}  # the package itself, of which a submodule is imported
        assert not up, f"{path.relative_to(SOURCE)} may not import {sorted(up)}"


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if (SOURCE / layer).is_dir()])
def test_modules_of_a_package_form_no_circle(layer):
    name_of = {path: path.relative_to(SOURCE).with_suffix("").parts for path in modules(layer)}
    left = {name: own_imports(path) & set(name_of.values()) - {name} for path, name in name_of.items()}
    while free := {name for name, wanted in left.items() if not wanted & left.keys()}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert not left, f"these import one another: {sorted('.'.join(name) for name in left)}"


@pytest.mark.parametrize("name", ALONE)
def test_what_stands_alone_imports_nothing_of_the_package(name):
    path = SOURCE / f"{name.replace('.', '/')}.py"
    assert not [module for module in imports(path) if module.split(".")[0] == "ordergrad"]


@pytest.mark.parametrize("path", sorted((SOURCE / "adapters").glob("*.py")), ids=lambda path: path.stem)
def test_adapters_import_one_another_only_for_what_they_share(path):
    own = {module.split(".")[2] for module in imports(path) if module.startswith("ordergrad.adapters.")}
    framework = path.stem.split("_")[0]
    shared = {"completions", "constraint", "episodes", "mean_first", "notes", "pass_rates", "rollouts"}
    assert {name for name in own if name.split("_")[0] != framework} <= shared


@pytest.mark.parametrize("name", [name for name in CORE if name != "backends"])
def test_only_the_backends_name_frameworks(name):
    assert not {module.split(".")[0] for path in modules(name) for module in imports(path)} & FRAMEWORKS


@pytest.mark.parametrize("name", CORE)
def test_relative_imports_are_not_used(name):
    nodes = [node for path in modules(name) for node in ast.walk(ast.parse(path.read_text()))]
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_the_package_root_only_exports():
    body = ast.parse((SOURCE / "__init__.py").read_text()).body
    assert isinstance(body[0], ast.Expr)  # the docstring
    assert all(isinstance(node, (ast.ImportFrom, ast.Assign)) for node in body[1:])


def test_importing_is_light():
    program = f"import sys, ordergrad; print([m for m in {LIGHT} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_numpy_alone_loads_no_framework_but_the_one_of_the_kernel():
    program = (
        "import sys, ordergrad as og; og.advantages([1.0, 2.0, 3.0], 'cvar:0.5'); og.value([1.0, 2.0], 'mean');"
        f"print([m for m in {LIGHT} if m in sys.modules and m != 'numba'])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


OPTIONAL = {
    "adapters.botorch": "botorch",
    "adapters.recipes": "torch",
    "adapters.rllib": "rllib",
    "adapters.rllib_episodes": "rllib",
    "adapters.rollouts": "torch",
    "adapters.rsl_rl": "rsl",
    "adapters.sb3": "rl",
    "adapters.sb3_evaluation": "rl",
    "adapters.skrl": "skrl",
    "adapters.skyrl": "skyrl",
    "adapters.torchrl": "torchrl",
    "adapters.trl": "llm",
    "adapters.trl_async": "llm",
    "adapters.trl_config": "llm",
    "adapters.trl_refill": "llm",
    "adapters.verl": "verl",
    "adapters.verl_sampling": "verl",
    "envs": "envs",
    "score.logs": "score",
    "wrappers.gymnasium": "envs",
    "wrappers.sb3": "rl",
}
"""Modules that need an extra, and which."""


def test_every_adapter_is_known_to_be_optional_or_not():
    adapters = {f"adapters.{path.stem}" for path in (SOURCE / "adapters").glob("*.py")}
    without = ("__init__", "completions", "constraint", "episodes", "mean_first", "notes", "pass_rates")
    assert adapters - set(OPTIONAL) == {f"adapters.{name}" for name in without}


def test_modules_name_the_extra_they_miss():
    """With nothing installed but what the package itself needs."""
    program = f"""if True:
        import importlib, sys
        class Nothing:
            def find_spec(self, name, path=None, target=None):
                known = {{"ordergrad", "numpy", "scipy", "array_api_compat", *sys.stdlib_module_names}}
                if name.split(".")[0] not in known:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Nothing())
        for name in {list(OPTIONAL)}:
            try:
                importlib.import_module(f"ordergrad.{{name}}")
            except ModuleNotFoundError as error:
                print(error)
    """
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = out.stdout.splitlines()
    assert len(lines) == len(OPTIONAL)
    for line, extra in zip(lines, OPTIONAL.values(), strict=True):
        assert line.startswith("No module named ")
        assert line.endswith(f": pip install 'ordergrad[{extra}]'")


@pytest.mark.parametrize(
    "name", ["ordergrad", "ordergrad.conditions", "ordergrad.extras", *(f"ordergrad.{name}" for name in CORE)]
)
def test_all_is_sorted_and_true(name):
    module = importlib.import_module(name)
    assert module.__all__ == sorted(set(module.__all__))
    own = {
        key
        for key, thing in vars(module).items()
        if not key.startswith("_") and getattr(thing, "__module__", None) == name
    }
    assert all(hasattr(module, key) for key in module.__all__)
    if name != "ordergrad":
        unlisted = {key for key in own if callable(vars(module)[key])} - set(module.__all__)
        assert not unlisted, f"{name}.__all__ misses {sorted(unlisted)}"


@pytest.mark.parametrize("key", [key for key in ordergrad.__all__ if callable(getattr(ordergrad, key))])
def test_public_functions_have_a_docstring_with_an_example(key):
    text = getattr(ordergrad, key).__doc__
    assert ">>>" in text
    assert "Args:" in text


SHARED = {
    # The parameters of EpisodeRanking, which OrderGradPPO spells out for editors and type checkers
    ("adapters/episodes.py", "adapters/sb3.py"),
}
"""Pairs of files that may have six lines in common, and why."""


def lines_of_code(path):
    """Return the lines of a file, stripped, without empty ones and imports."""
    text = path.read_text()
    imported = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for number in range(node.lineno, node.end_lineno + 1)
    }
    lines = (line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in imported)
    return [line for line in lines if line]


def test_no_six_lines_are_written_twice():
    first, twice = {}, {}
    for path in sorted(SOURCE.rglob("*.py")):
        name, lines = path.relative_to(SOURCE).as_posix(), lines_of_code(path)
        for six in zip(*(lines[start:] for start in range(6)), strict=False):
            if first.setdefault(six, name) != name:
                twice.setdefault((first[six], name), "\n".join(six))
    assert twice.keys() <= SHARED, "\n\n".join(f"{a}, {b}:\n{six}" for (a, b), six in twice.items())


def test_the_parameters_that_are_spelt_out_twice_are_the_same():
    pytest.importorskip("stable_baselines3")
    from ordergrad.adapters.episodes import EpisodeRanking
    from ordergrad.adapters.sb3 import OrderGradPPO

    shown = inspect.signature(OrderGradPPO).parameters
    for name, parameter in inspect.signature(EpisodeRanking).parameters.items():
        assert shown[name].annotation == parameter.annotation
        # OrderGradPPO always has a critic, so it takes the credit that uses one, and the cap that goes with it
        assert shown[name].default == {"credit": "telescoped", "cap": "falling"}.get(name, parameter.default)
