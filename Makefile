# Everything a newcomer needs: make quickstart, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.PHONY: quickstart test lint parity bench curves wheel-test clean

quickstart: $(VENV)/installed
	$(BIN)/art-jax quickstart

# Format and lint first: they fail fastest. A file's tests share what they set up, so
# one process runs them all.
test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Live comparison with torch, transformers and sentence-transformers: some GB.
# Token ids of whole corpora are compared where ART_JAX_PARITY_* say which, see
# tests/parity/test_token_ids.py.
parity: $(VENV)-parity/installed
	$(VENV)-parity/bin/python -m pytest tests/parity

# Speed beside floors and peers, in sizes that take minutes on two cores; each prints
# one JSON object. Flags of each: benchmarks/NAME.py --help.
BENCHMARKS := search embed teacher art_step
bench: $(VENV)-bench/installed
	for name in $(BENCHMARKS); do \
	  $(VENV)-bench/bin/python benchmarks/$$name.py --json || exit 1; \
	done

# How cost grows, drawn to docs/curves; run it on a machine that does nothing else.
curves: $(VENV)-bench/installed
	$(VENV)-bench/bin/python benchmarks/curves.py

# The tests from another folder against the wheel: a file left out of it fails here.
wheel-test:
	rm -rf build dist $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/pip install --quiet build
	$(VENV)-wheel/bin/python -m build --wheel
	$(VENV)-wheel/bin/pip install --quiet "$$(ls dist/*.whl)[test]"
	cd /tmp && $(CURDIR)/$(VENV)-wheel/bin/python -m pytest -n $(WORKERS) --dist loadfile \
	  -p no:cacheprovider $(CURDIR)/tests

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)-parity/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/pip install --quiet --editable '.[parity,test]'
	touch $@

$(VENV)-bench/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --editable '.[bench,scann]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-parity $(VENV)-bench $(VENV)-wheel build dist *.egg-info
