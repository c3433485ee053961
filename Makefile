# On a fresh machine `make repro` and `make test` do everything, set-up included.
PYTHON ?= python3.11
PORT ?= 5000
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup repro test test-fast check docs experiments ui

repro: setup  ## the main job: embedded data to a registered best model per label ratio
	dvc repro

test: check  ## everything
	pytest -q --doctest-modules src/avsl/functional src/avsl/metrics
	pytest -n 2 --dist loadfile --no-loadscope-reorder tests/pipeline/test_dag.py tests

test-fast: check  ## the tests that take seconds
	pytest -q --doctest-modules src/avsl/functional src/avsl/metrics
	pytest -n 2 --dist loadfile -m "not slow"

check: setup docs  ## ruff, codespell, mypy strict, import-linter, the documentation
	codespell *.md *.toml *.yaml *.yml Makefile benchmarks docs pipelines src tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports

docs: setup  ## the documentation site in site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

experiments: setup  ## of `dvc exp run`: CIoU of each cell, and the parameters that differ
	dvc exp show --only-changed \
		--drop '.*json:(?!(validation|test)_ciou$$).*|src/|pipelines/|outputs/[^:]*$$'

ui: setup  ## MLflow's pages on the local store; PORT=5001 for another port
	mkdir -p outputs/mlflow
	@echo "MLflow: http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning"
	@echo "runs with scores: http://127.0.0.1:$(PORT)/#/experiments/1/runs?viewStateShareKey=scores"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true mlflow server --workers 1 --port $(PORT) \
		--backend-store-uri sqlite:///outputs/mlflow/mlflow.db

setup: .venv/.installed

# One environment with pinned versions; made again only when what it is made from changes.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
