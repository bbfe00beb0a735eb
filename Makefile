# make run: the demonstration.  make test: all tests.  Both make .venv first; nothing else is needed but Python ≥ 3.11.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TESTED := .venv/.ready-to-test

.PHONY: setup run test bench lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "factorstream needs Python 3.11 or newer; name one: make PYTHON=python3.12 setup" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt hatchling editables
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[worker,local,dev]'
	@echo "compiling the kernels for this processor, once"
	@printf 'user_id,item_id,rating,timestamp\nu1,m1,4,1700000000\nu2,m1,2,1700000001\n' > .venv/warm.csv
	@$(BIN)/factorstream evaluate .venv/warm.csv
	@touch $@

# with PyTorch, whose Triton interprets the GPU's kernels where there is no GPU
$(TESTED): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[worker,local,dev,gpu]'
	@touch $@

run: setup
	@$(BIN)/factorstream demo

# a file's tests in one process, each of which has services of its own; files in their order, for the longest come early
test: $(TESTED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[worker,local,dev,bench]'
	$(BIN)/python -m tests.benchmarks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

clean:
	rm -rf .venv .run .data build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
