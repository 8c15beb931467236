# fl-bench: `make` lists what can be made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests that run side by side; each may start a simulation with a worker for each core.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run test test-all coverage docs bench results differences lint format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## run the main job to its result: 100 rounds of FedAvg on real handwritten digits
	$(BIN)/fl-bench

test: $(READY) ## run all tests, about ten minutes on two cores; those marked alone last
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not alone" $(PYTEST)
	$(BIN)/python -m pytest -m alone $(PYTEST)

test-all: export FL_BENCH_CRASHES = 240
test-all: export FL_BENCH_DAMAGES = 500
test-all: export FL_BENCH_EXAMPLES = 1000
test-all: export FL_BENCH_KILLS = 7
test-all: export FL_BENCH_WORDS = 1000
test-all: export FL_BENCH_LONG = 1
test-all: test ## the same with many more kills, crashes, damages and random examples, within an hour

coverage: PYTEST = --cov --cov-append --cov-report=
coverage: $(READY) ## which lines the tests run, in processes that they start too
	$(BIN)/coverage erase
	$(MAKE) test PYTEST="$(PYTEST)"
	$(BIN)/coverage report --skip-covered --sort=cover

docs: $(VENV)/.docs-ready ## build the site in site/, which is read without a network: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY) ## measure speed and memory beside a bare loop and plain Flower, a sweep, a deployment and split learning beside others: benchmarks/*.md (an hour)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/deployment.py
	$(BIN)/python benchmarks/vertical.py

results: $(READY) ## make the pages of scripts/pages anew, from the studies in conf/study (some hours)
	$(BIN)/python scripts/make_pages.py

differences: $(READY) ## make docs/flower-differences.md anew: stock Flower beside ours and the papers (a minute)
	$(BIN)/python scripts/make_differences.py

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the code into its style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and the caches, not the results
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Installed anew only when pyproject.toml has changed.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fl-bench needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.docs-ready: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@
