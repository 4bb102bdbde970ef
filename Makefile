# make demo, make test ARGS='-k grid', make run CONFIG=vigie.yaml, make PYTHON=python3.12
# make ablation DATA=/path/to/data ARGS='--steps 240'
.PHONY: setup demo test check run bench gpu-check ablation clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Vigie needs Python 3.11 or newer. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "No virtual environment could be made. Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV); the first time takes minutes and some gigabytes."
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,servers]'
	touch $(STAMP)

demo: setup
	$(BIN)/vigie demo $(ARGS)

run: setup
	$(BIN)/vigie run --config $(or $(CONFIG),deploy/config/local.yaml)

test: setup
	$(BIN)/python -m pytest $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check

bench: setup
	$(BIN)/python -m tests.benchmarks $(ARGS)

# No `setup`: a GPU machine may have no network, and needs none of the daemon's libraries.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.gpu $(ARGS)

ablation: setup
	$(BIN)/vigie evaluate ablation --ombria $(DATA)/ombria --classes $(DATA)/ucmerced --out $(or $(OUT),runs/ablation) $(ARGS)

clean:
	rm -rf $(VENV) build var runs *.egg-info
