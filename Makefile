# Two commands set everything up on a machine that has python3.11, make and a package index:
#   make demo    train, compress, export, measure and report on built-in data
#   make test    all checks and tests
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# A test file stays on one worker, and each worker on one thread: two workers then use two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile

.PHONY: demo test check lint fast-tests bench clean

demo: $(VENV)/host
	$(BIN)/edgewise run recipes/demo.yaml --out runs/demo --force

test: $(VENV)/dev lint
	sh scripts/debian.sh
	sh scripts/web.sh
	$(PYTEST)

check: $(VENV)/dev lint fast-tests

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-tests: $(VENV)/dev
	$(PYTEST) -m "not slow"

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks

$(VENV)/host: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -e ".[host]"
	touch $@

$(VENV)/dev: $(VENV)/host
	$(BIN)/pip install --disable-pip-version-check -q -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
