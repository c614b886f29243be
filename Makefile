VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# No telemetry, also from what the commands import before Graft; a value that is already set is respected.
export ZENML_ANALYTICS_OPT_IN ?= false
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= true
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: setup demo test test-all lint ui clean
setup: $(STAMP)
	$(BIN)/graft setup

demo: setup
	$(BIN)/graft demo-data data/digits-demo --per-class 60
	$(BIN)/zenml pipeline run pipelines.training.training_pipeline -c configs/demo.yaml
	$(BIN)/graft summary

# One thread for each of the two workers: more would compete for the cores.
test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Includes every backbone of torchvision; takes half an hour and 16 GiB.
test-all: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest -m large

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: setup
	$(BIN)/graft ui

# Runs and models are in ZenML's store, not here; they are not removed.
clean:
	rm -rf $(VENV) .zen data/digits data/digits-demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Graft needs Python 3.11 or newer; give one with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
