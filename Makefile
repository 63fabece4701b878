# make search   makes the environment and runs the search      make test   makes it and passes every test
# make lint     ruff and mypy                                  make pin    writes constraints.txt anew
# make clean    removes the environment and the caches
#
# PYTHON chooses the interpreter (3.10 or newer), ARGS adds options to the search:
#   make search PYTHON=python3.12 ARGS="--latency-ms 1.2"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.PHONY: search test lint pin clean

search: $(VENV)/run.stamp
	$(BIN)/nas search --space efficientformer --device iphone12 $(ARGS)

# One thread a test process: two of them already fill two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy nas

# The stamps make a second call a no-op until the requirements change. torch goes first and alone, at its exact version:
# asked for with no pin beside the others, pip takes the newest build there is, which for Linux is a CUDA one of several
# GB. Give pip a source of CPU builds (PIP_FIND_LINKS or an index of your own) and this step takes the CPU build.
$(VENV)/torch.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	touch $@

$(VENV)/run.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/pip install --quiet --editable . --constraint constraints.txt
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

# Needs an environment made without the old pins, hence its own.
pin:
	rm -rf .venv-pin
	$(PYTHON) -m venv .venv-pin
	.venv-pin/bin/pip install --quiet $(TORCH)
	.venv-pin/bin/pip install --quiet '.[dev,coreml]' $(TORCH)
	.venv-pin/bin/python scripts/pin.py > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-pin

clean:
	rm -rf $(VENV) .venv-pin build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
