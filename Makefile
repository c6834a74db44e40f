# make demo: the main job on a real checkpoint. make test: the tests. Both make .venv first and work in it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint clean

demo: .venv/demo
	$(BIN)/python tools/demo.py $(ARGS)

test: .venv/test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-all: .venv/test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Each installs the extra of its name and no more.
.venv/demo .venv/test: .venv/%: setup.cfg pyproject.toml | .venv/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

.venv/created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	touch $@

clean:
	rm -rf .venv build dist demo *.egg-info
