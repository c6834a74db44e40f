# make demo: the main job on a real checkpoint. make test: the tests. Both make .venv first and work in it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint clean

demo: $(VENV)/demo
	$(BIN)/python tools/demo.py $(ARGS)

test: $(VENV)/test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-all: $(VENV)/test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Each installs the extra of its name and no more.
$(VENV)/demo $(VENV)/test: $(VENV)/%: setup.cfg pyproject.toml | $(VENV)/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)/created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
