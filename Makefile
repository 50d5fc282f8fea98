VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXTRAS := dev

.PHONY: run test bench study clean

# Train a risk-averse and a mean-seeking policy in the guarded maze and show who takes which way.
run: $(VENV)/rl.stamp
	$(BIN)/python experiments/guarded_maze.py --quick --overwrite

# Everything that must hold: formatting, types, tests and doctests.
test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2

# The committed benchmark table, measured anew.
bench: $(VENV)/dev.stamp
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only --benchmark-json=.benchmarks.json
	$(BIN)/python benchmarks/table.py .benchmarks.json benchmarks/results.md

# The full study of the guarded maze: every objective and ablation, all seeds.
study: $(VENV)/rl.stamp
	$(BIN)/python experiments/guarded_maze.py --study --resume --results experiments/results/guarded_maze --images docs/images

clean:
	rm -rf $(VENV) build dist

$(VENV)/%.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@
