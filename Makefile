# make demo: the main job on a real checkpoint. make test: the tests. make docs: the site. All make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint docs docs-serve clean

demo: $(VENV)/demo
	$(BIN)/python tools/demo.py $(ARGS)

test: $(VENV)/test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-all: $(VENV)/test
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(VENV)/docs
	$(BIN)/mkdocs serve

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Each installs the extra of its name and no more.
$(VENV)/demo $(VENV)/test $(VENV)/docs: $(VENV)/%: setup.cfg pyproject.toml | $(VENV)/created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)/created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
