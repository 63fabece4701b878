# make search   installs the core alone and runs the search      make test    installs everything, lints, passes every test
# make env      installs everything and runs nothing             make quick   the unit tests, without what takes long
# make lint     ruff and mypy                                    make pin     writes constraints.txt anew
# make site     the documentation as pages, in build/site        make farms   the clients of device farms, for tests
# make faults   kills, full disks, two writers, damaged files   make clean    removes the environments and the caches
# make times    the time of every test, for `make quick`
#
# PYTHON chooses the interpreter (3.10 or newer), ARGS adds options to the search:
#   make search PYTHON=python3.12 ARGS="--latency-ms 1.2"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
TORCH := torch==2.13.0
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: search env test quick times faults site lint pin farms clean

search: $(VENV)/core.stamp
	$(BIN)/nas search --space efficientformer --device iphone12 $(ARGS)

env: $(VENV)/all.stamp

# One thread per test process. Tests also wait (for stand-in phones, locks, other processes), so three fill two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal

# Without what tests/times.csv records as taking more than a tenth of a CPU second.
quick: $(VENV)/all.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --ignore tests/integration -m "not slow"

# Half an hour: the CPU seconds of every fifth case of each test, in tests/times.csv.
times: $(VENV)/all.stamp
	OMP_NUM_THREADS=1 PYTHONPATH=scripts $(BIN)/pytest -q -p case_times --times tests/times.csv --times-share 5 --ignore tests/integration

# An hour on one core. FAULTS_PER_SUBJECT=N gives each command N damaged files instead of 60, FAULTS_SEED=N others.
# FAULTS_WALL_PER_CPU=40 waits ten times as long for a command before it counts as hanging, on a machine that is busy.
faults: $(VENV)/all.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults -o python_files='fault_*.py' -p no:cacheprovider

# Their requirements exclude some of ours (protobuf), so they get an environment of their own.
farms: .venv-farms/farms.stamp

.venv-farms/farms.stamp: Makefile
	$(PYTHON) -m venv .venv-farms
	.venv-farms/bin/pip install --quiet qai-hub==0.56.0 runlocal-hub==0.1.7
	touch $@

# The documentation as pages, in build/site. Any warning fails it.
site: $(VENV)/all.stamp
	DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/all.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy nas

# The stamps make a second call a no-op until the requirements change, and `make test` goes on from what `make search`
# installed. Bytecode is written by what is imported, which takes a fifth of the time of compiling everything.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --no-compile --editable . --constraint constraints.txt
	touch $@

# torch goes first and alone, at its exact version: asked for with no pin beside the others, pip takes the newest build
# there is, which for Linux is a CUDA one of several GB. Give pip a source of CPU builds (PIP_FIND_LINKS or an index of
# your own) and this step takes the CPU build.
$(VENV)/torch.stamp: constraints.txt | $(BIN)/python
	$(PIP) $(TORCH) --constraint constraints.txt
	touch $@

$(VENV)/all.stamp: $(VENV)/core.stamp $(VENV)/torch.stamp
	$(PIP) --editable '.[dev]' --constraint constraints.txt
	touch $@

# Needs an environment made without the old pins, hence its own. `dev` holds all the extras.
pin:
	rm -rf .venv-pin
	$(PYTHON) -m venv .venv-pin
	.venv-pin/bin/pip install --quiet $(TORCH)
	.venv-pin/bin/pip install --quiet '.[dev]' $(TORCH)
	.venv-pin/bin/python scripts/pin.py > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-pin

clean:
	rm -rf $(VENV) .venv-pin .venv-farms build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
