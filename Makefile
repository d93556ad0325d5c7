# Everything a machine with Python >= 3.11 (and its venv module) and make needs to know. Nothing is installed outside of .venv.
#
#   make reproduce   the main job at toy scale: data, pre-training, fine-tuning, evaluation, samples, report
#   make test        lint, types, tests, notebooks
#   make lab         the notebooks in a browser (JupyterLab)
#   make notebooks   execute all notebooks anew at toy scale
#   make bench       speed of training, sampling and scoring against plain loops; planned memory against measured
#   make bench-data  1 GB of text prepared under a cap of memory (ARGS='--mb 10': less)
#   make soak        kill a training run 30 times; it must end as if it had not been killed

PYTHON ?= python3
SCALE ?= toy
ARGS ?=
PYTEST_ARGS ?=
# One worker per core, one thread each; WORKERS=0: all tests in one process.
WORKERS ?= auto
NAMES ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: help setup lab reproduce test lint types tests check-notebooks notebooks bench bench-data soak format wheel clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile
	@echo "PYTHON=python3.12 picks an interpreter, SCALE=smoke a scale, ARGS='seed=1' adds settings"

setup: $(READY)

# The exact pins first, then this package in place; the stamp is written last, so a broken-off set-up is done again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PYTHON = $(PYTHON); older than 3.11; PYTHON=python3.11 or newer"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "PYTHON = $(PYTHON); has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the pinned packages into $(VENV) (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 5 -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

reproduce: $(READY)
	$(BIN)/illada-lab reproduce scale=$(SCALE) $(ARGS)

test: lint types tests check-notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

# Compiled code cannot carry the run-time shape checks: its tests run in a second call without them. Status 5: there are none.
tests: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)
	$(BIN)/python -m pytest -o addopts="--strict-markers -ra -m compiled" $(PYTEST_ARGS) || test $$? -eq 5

# Executes every notebook at smoke scale, with the models of one folder per worker; drift of .ipynb from .py is among the tests.
check-notebooks: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) -m notebooks tests/notebooks $(PYTEST_ARGS)

# Writes every .ipynb anew from its .py, executed at toy scale (NAMES=01_objective: some of them).
notebooks: $(READY)
	$(BIN)/python -m tests.notebooks.run $(NAMES)

lab: $(READY)
	$(BIN)/jupyter lab $(ARGS) notebooks

bench: $(READY)
	$(BIN)/python -m benchmarks.training $(ARGS)
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.memory

bench-data: $(READY)
	$(BIN)/python -m benchmarks.prepare $(ARGS)

# Bit for bit, one process and two; benchmarks/results/soak_cpu.json (ARGS='--kills 5': fewer).
soak: $(READY)
	$(BIN)/python -m tests.training.soak $(ARGS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)
	$(BIN)/hatchling build --target wheel

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
