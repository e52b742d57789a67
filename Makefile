# Everything that is run here, each in one way. `make demo` and `make test` are the front doors; a fresh clone needs
# make and Python >= 3.11, no compiler.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
MAKEFLAGS += --no-print-directory

# Both hide what is tested here: the first buffering faults, the second makes every start compile everything anew.
unexport PYTHONUNBUFFERED
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check install -qq
PYTEST := $(PY) -m pytest

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# Of a list and not only `python3`: that may be too old, or a shim that answers for versions that are not there.
.venv/made:
	@for candidate in "$${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
	    [ -n "$$candidate" ] || continue
	    found=$$("$$candidate" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11); print(sys.executable)' 2>/dev/null) || continue
	    echo "making .venv with $$found"
	    "$$found" -m venv --clear .venv
	    touch $@
	    exit 0
	done
	echo "make: no Python >= 3.11 with venv found: install one, or say which with PYTHON=/path/to/python3" >&2
	exit 1

.venv/demo-ready: .venv/made pyproject.toml
	@echo "installing constellation and what it needs"
	$(PIP) --editable .
	touch $@

.venv/test-ready: .venv/made pyproject.toml
	@echo "installing constellation and what its tests need"
	$(PIP) --editable '.[test]'
	touch $@ .venv/demo-ready

.venv/dev-ready: .venv/made pyproject.toml
	@echo "installing constellation and what its checks and benchmarks need"
	$(PIP) --editable '.[dev]'
	touch $@ .venv/test-ready .venv/demo-ready

# As a stranger installs them: built, and out of site-packages.
.venv/plugins-ready: .venv/test-ready $(shell find plugins -path '*/tests' -prune -o -type f -name '*.py' -print -o -name pyproject.toml -print)
	@echo "installing the distributions under plugins/ and what they need"
	$(PIP) $(patsubst %/pyproject.toml,./%,$(wildcard plugins/*/pyproject.toml))
	touch $@

demo: .venv/demo-ready  ## Set up and run the main job, a word count over 20 MB and more, then fibonacci
	@$(PY) examples/wordcount.py
	$(PY) examples/fibonacci.py

test: .venv/plugins-ready  ## Set up and run all tests but the slow ones and those that need root
	@$(PYTEST) -n 2 --dist loadfile -m "not slow and not root"

test-slow: .venv/plugins-ready  ## Run the slow tests: storms, hundreds of runs
	@$(PYTEST) -m slow || [ $$? -eq 5 ]

test-root: .venv/plugins-ready  ## Run the tests that need root, but the slow ones
	@$(PYTEST) -m "root and not slow" || [ $$? -eq 5 ]

test-all: test test-slow test-root  ## Run all tests

fuzz: .venv/test-ready  ## Hostile bytes into all that reads some, for ten minutes (FUZZ_SECONDS=600)
	@$(PY) -m tests.fuzz $(or $(FUZZ_SECONDS),600)

soak: .venv/test-ready  ## A fabric under kills for ten minutes (SOAK_SECONDS=600 SEED=...)
	@$(PY) -m tests.soak $(or $(SOAK_SECONDS),600) $(SEED)

lint: .venv/dev-ready .venv/plugins-ready  ## Check format, style and types
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(PY)

fix: .venv/dev-ready  ## Mend format and style where that can be done by itself
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev-ready  ## Run the benchmarks and print the figures
	@$(PY) -m benchmarks

docs: .venv/test-ready  ## Build the reference and check the pages: programs run, links and signatures are true
	@$(PY) docs/build_reference.py
	$(PYTEST) -q tests/docs

clean:  ## Remove what was made
	rm -rf .venv build dist plugins/*/dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help demo test test-slow test-root test-all fuzz soak lint fix bench docs clean
