# Each target makes .venv by itself; the first call takes about a minute, later ones nothing.
# PYTHON=/path/to/python3 chooses another interpreter than the system's for .venv.
PY := .venv/bin/python
# What depends on the kernel at hand; the rest is the same everywhere.
VM_TESTS := tests/launcher tests/native tests/conformance/test_native.py

.PHONY: help run test test-vm lint types bench matrix compare fuzz faults soak setup clean

help:
	@echo "make run    run a contained process and show what it sees, next to the host"
	@echo "make test   all tests (as root: everything; as an ordinary user: what needs no root)"
	@echo "make test-vm the native driver once more, on another kernel with cgroup v2 and AppArmor, in a virtual machine"
	@echo "make lint   ruff and import-linter"
	@echo "make types  mypy --strict"
	@echo "make matrix docs/drivers.md, from a run of the conformance kit on every driver (as root)"
	@echo "make compare the table in docs/security.md: what is in reach beside docker, podman and bubblewrap (as root)"
	@echo "make fuzz   libFuzzer on the launcher, ten minutes unless FUZZ_SECONDS says otherwise"
	@echo "make faults docs/faults.md: the launcher's system calls and its caller's fail in turn (as root)"
	@echo "make soak   docs/soak.md: four programs on one store, killed at random, half an hour unless SOAK_MINUTES says otherwise"
	@echo "make bench  ours and what others use, measured side by side, with a report and plots (as root)"
	@echo "make clean  remove .venv and everything built"

setup:
	@tools/setup

run: setup
	@$(PY) examples/show_container.py

# As root by two sessions side by side that see nothing of each other; an ordinary user's are not to be told apart.
APART := $(if $(filter 0,$(shell id -u)),--dist loadfile --no-loadscope-reorder --tx '2*popen//python=$(CURDIR)/tools/apart')

# ARGS="-k chroot -x" is passed on to pytest; then it is one session.
test:
	@tools/setup test
	@$(PY) -m pytest -q $(or $(ARGS),$(APART))

# As root. Emulated: some minutes. ARGS="--pyargs …" chooses other tests.
test-vm:
	@tools/setup test vm
	@tools/vm --memory 4G --timeout 1800 -- $(PY) -m pytest -q -p no:cacheprovider --timeout 300 $(or $(ARGS),$(VM_TESTS))

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@.venv/bin/lint-imports --no-logo --no-cache

types: setup
	@$(PY) -m mypy

compare:
	@tools/setup compare
	@$(PY) tools/compare-isolation

fuzz:
	@tools/setup test
	@$(PY) -m tests.fuzz

faults:
	@tools/setup test
	@$(PY) -m tests.faults

soak:
	@tools/setup test
	@$(PY) -m tests.soak

# As root. ARGS="--quick" and the like are passed on; see docs/benchmarks.md.
bench:
	@tools/setup bench
	@$(PY) -m benchmarks $(ARGS)

matrix:
	@tools/setup test
	@$(PY) tools/matrix

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find drivers src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
	find drivers -name '*.so' -delete
