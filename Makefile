VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Nothing of ours reports home; a value that you have set stands.
export ZENML_ANALYTICS_OPT_IN ?= false
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= true

.PHONY: setup demo test test-all lint ui clean
setup: $(STAMP)
	$(BIN)/graft setup

demo: setup
	$(BIN)/graft demo-data data/digits-demo --per-class 60
	$(BIN)/zenml pipeline run pipelines.training.training_pipeline -c configs/demo.yaml
	$(BIN)/graft summary

# One thread for each of two workers: more would wait for each other.
test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# With every backbone that torchvision has; takes half an hour and 16 GiB.
test-all: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest -m large

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: setup
	$(BIN)/graft ui

# Runs and models live in ZenML's own store, not here; they stay.
clean:
	rm -rf $(VENV) .zen data/digits data/digits-demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Graft needs Python 3.11 or newer; give one with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
