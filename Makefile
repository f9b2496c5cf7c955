# Two commands set everything up on a machine that has python3.11, make and a package index:
#   make demo    train, compress, export, measure and report on built-in data
#   make test    all checks and tests
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# A test file stays on one worker, and each worker on one thread: two workers then use two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile
# Tests that load OpenVINO, ncnn and LiteRT beside torch, and the one that raises signals, run in processes of their own:
# after many other tests workers have died in them.
ALONE := tests/export/test_formats.py tests/export/test_openvino.py tests/export/test_runtimes.py tests/test_handout.py \
          tests/faults/test_32_export.py tests/train/test_world.py

.PHONY: demo test check lint fast-tests bench old-runtime arm64 executorch clean

demo: $(VENV)/host
	$(BIN)/edgewise run recipes/demo.yaml --out runs/demo --force

test: $(VENV)/dev $(VENV)/old/environments.json $(VENV)/arm64 lint
	sh scripts/debian.sh
	sh scripts/web.sh
	for file in $(ALONE); do OMP_NUM_THREADS=1 $(BIN)/pytest -q $$file || exit 1; done
	$(PYTEST) $(ALONE:%=--ignore=%)

check: $(VENV)/dev lint fast-tests

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-tests: $(VENV)/dev
	$(PYTEST) -m "not slow" $(ALONE:%=--ignore=%)

# Bundles under the oldest onnxruntime that has a wheel here, and on an ARM processor under qemu: function, never time.
old-runtime: $(VENV)/dev $(VENV)/old/environments.json
	$(PYTEST) tests/export/test_old_runtimes.py

arm64: $(VENV)/dev $(VENV)/arm64
	$(PYTEST) tests/export/test_arm64.py

# ExecuTorch is no part of `make test`: a conversion takes up to a minute.
executorch: $(VENV)/dev
	$(BIN)/pip install --disable-pip-version-check -q -e ".[executorch]"
	EDGEWISE_TEST_EXECUTORCH=1 $(PYTEST) tests/export/test_formats.py tests/export/test_runtimes.py -k executorch

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks

$(VENV)/host: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -e ".[host]"
	touch $@

$(VENV)/dev: $(VENV)/host
	$(BIN)/pip install --disable-pip-version-check -q -e ".[dev]"
	touch $@

$(VENV)/old/environments.json: scripts/old_runtimes.py | $(VENV)/dev
	$(BIN)/python scripts/old_runtimes.py $(VENV)/old

$(VENV)/arm64: scripts/arm64.sh | $(VENV)/dev
	sh scripts/arm64.sh make $(VENV)/arm64 $(BIN)/python

clean:
	rm -rf $(VENV) runs
