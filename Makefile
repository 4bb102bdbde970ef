.PHONY: setup demo test check run bench clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,servers]'
	touch $(STAMP)

demo: setup
	$(BIN)/vigie demo

run: setup
	$(BIN)/vigie run --config $(or $(CONFIG),deploy/config/local.yaml)

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check

bench: setup
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) build var runs *.egg-info
