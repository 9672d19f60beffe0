# make demo   everything, from a bare checkout to a report, in about a quarter of an hour on two cores
# make quick  the tests that train nothing, in about a minute
# make test   the test suite; make test-all also what repeats it at length
# make check  format, lint, types, layers, then the tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.duet-setup
TWO    := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo quick test test-all check ablation clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/duet demo --out runs/demo

quick: setup
	$(BIN)/python -m pytest $(TWO) -m 'not slow and not thorough'

test: setup
	$(BIN)/python -m pytest $(TWO)

test-all: setup
	$(BIN)/python -m pytest $(TWO) -m 'thorough or not thorough'

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(TWO)

ablation: setup
	$(BIN)/python tools/ablation.py --seeds 3 --out runs/ablation

clean:
	rm -rf $(VENV) build dist *.egg-info
