# Every command that a person or CI runs here. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python on the PATH that is new enough; another: make PYTHON=/path/to/python …
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
PACKAGES := schemas pipelines cluster jobs matryoshka_lake
SOURCES := $(shell find $(PACKAGES) tests -name '*.py' 2>/dev/null) pyproject.toml
PYTEST := $(BIN)/python -m pytest

.PHONY: help venv demo test test-slow test-all chaos bench docs docs-serve lint check format lock clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/demo ## Make .venv with the pinned packages that running needs

# The environment comes in two stages, so that `make demo` need not wait for test tools.
.venv/demo: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[demo]'
	@touch $@

.venv/dev: .venv/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

.venv/bench: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	@touch $@

.venv/docs: .venv/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[docs]'
	@touch $@

demo: .venv/demo ## Embed, index, measure and search real data on this machine; write lake/demo/report.html
	$(BIN)/python -m jobs demo

# Processes that run tests side by side, each with a Ray and an S3 server of its own, and with one thread: they share the cores.
WORKERS ?= 2
test: .venv/dev ## Run the tests, but not the slow ones (minutes)
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PYTEST) -m "not slow" -n $(WORKERS) --no-loadscope-reorder \
		--cov --cov-report= --cov-fail-under=0

test-slow: .venv/dev ## Run the slow tests
	$(PYTEST) -m slow

TRIALS ?= 200
SEED ?= 0
chaos: .venv/dev ## Kill, stall and race real runs in TRIALS=200 seeded ways; after each, compare every row
	$(BIN)/python -m tests.chaos --trials $(TRIALS) --seed $(SEED)

test-all: .venv/dev ## Run every test
	$(PYTEST)

# make bench-embed is `python -m benchmarks.embed`; each says at its top what it measures and how to make it smaller.
BENCHMARKS := $(patsubst benchmarks/%.py,bench-%,$(shell grep -ls 'argparse' benchmarks/*.py 2>/dev/null))
bench: ## List the benchmarks against peers; `make bench-embed` runs one, ARGS= are its options
	@printf '  make %s\n' $(BENCHMARKS)

$(BENCHMARKS): bench-%: .venv/bench
	$(BIN)/python -m benchmarks.$* $(ARGS)

docs: .venv/docs ## Build the site of the documentation into build/site; a link or a name that leads nowhere stops it
	$(BIN)/python docs/.site/reference.py build/reference
	$(BIN)/zensical build --strict --clean

docs-serve: docs ## Build the site, and serve it at http://127.0.0.1:8000, where its search works (a browser blocks it in file://)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

lint: .venv/dev ## Check style, types and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint .coverage ## Lint, then hold the last test run's coverage to its floor
	$(BIN)/coverage report

.coverage: $(SOURCES)
	$(MAKE) test

format: .venv/dev ## Format the code and fix what ruff can fix by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/bench .venv/docs ## Pin what .venv holds now (torch without its build tag, so that any build of it will do)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/^\(torch==[^+]*\)+.*/\1/' >requirements.lock

clean: ## Remove caches, build outputs and the demo's tables; .venv stays
	rm -rf lake build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
