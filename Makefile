# Each target makes .venv by itself; the first call takes about a minute, later ones nothing.
# PYTHON=/path/to/python3 chooses another interpreter than the system's for .venv.
PY := .venv/bin/python

.PHONY: help run test lint types bench matrix setup clean

help:
	@echo "make run    run a contained process and show what it sees, next to the host"
	@echo "make test   all tests (as root: everything; as an ordinary user: what needs no root)"
	@echo "make lint   ruff and import-linter"
	@echo "make types  mypy --strict"
	@echo "make matrix docs/drivers.md, from a run of the conformance kit on every driver (as root)"
	@echo "make bench  launch times and how they depend on the caller's memory"
	@echo "make clean  remove .venv and everything built"

setup:
	@tools/setup

run: setup
	@$(PY) examples/show_container.py

# ARGS="-k chroot -x" is passed on to pytest.
test:
	@tools/setup test
	@$(PY) -m pytest -q $(ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/lint-imports --no-logo --no-cache

types: setup
	@$(PY) -m mypy

bench: setup
	@$(PY) -m benchmarks $(ARGS)

matrix:
	@tools/setup test
	@$(PY) tools/matrix

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find drivers src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
	find drivers -name '*.so' -delete
