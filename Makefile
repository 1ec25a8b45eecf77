# `make demo` and `make test` do all the set-up on a bare machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
export OMP_WAIT_POLICY ?= PASSIVE

# mace-torch needs e3nn 0.4, sevenn 0.6: each has an environment of its own
MACE_VENV ?= .venv-mace
MACE_STAMP = $(MACE_VENV)/.installed

.PHONY: demo test test-mace lint docs benchmark clean

$(STAMP): setup.cfg constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[chgnet,sevennet,torch-sim,papers,test,docs,dev]"
	touch $@

$(MACE_STAMP): setup.cfg constraints.txt constraints-mace.txt
	test -x $(MACE_VENV)/bin/python || $(PYTHON) -m venv $(MACE_VENV)
	$(MACE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-mace.txt -e ".[mace,test]"
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: lint docs test-mace
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-mace: $(MACE_STAMP)
	$(MACE_VENV)/bin/python -m pytest -q tests/test_mace.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet --site-dir site

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(MACE_VENV) build dist site demo *.egg-info
