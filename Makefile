# `make demo` and `make test` do all their own set-up in .venv; they need only Python 3.11+ and make.
PYTHON ?= python3
# the exact versions to install; /dev/null takes the newest of everything
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
# not compiled: an import compiles the few modules that are used
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(CONSTRAINTS)
# and keeps them for the many processes that the tests start, also where the environment of a container forbids it
export PYTHONDONTWRITEBYTECODE :=
# On Linux the wheel of torch that PyPI has brings several gigabytes of CUDA; without a GPU its CPU wheel is enough.
CPU_WHEELS := https://download.pytorch.org/whl/cpu
NO_GPU := $(shell [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null && echo yes)
# Tests run in a process a core, those of one file in one process; all in one where a GPU is shared. Files come in their
# own order: by number of tests, those of few long tests would be last.
PARALLEL := -n $(if $(shell command -v nvidia-smi),0,logical) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test docs floors package quality format clean

demo: .venv/demo
	$(BIN)/ladm demo

test: .venv/test
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered --cov-fail-under=95 $(ARGS)

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "the site: build/site/index.html, or with search: $(BIN)/mkdocs serve"

# the oldest versions that pyproject.toml admits, in a .venv of their own, without the heavy extras
floors:
	$(MAKE) BIN=.venv-floors/bin CONSTRAINTS=constraints-floors.txt .venv-floors/test
	.venv-floors/bin/python -m pytest $(PARALLEL) $(ARGS)

# sdist and wheel into dist/, each installed alone in a fresh environment
package:
	PYTHON=$(PYTHON) .ci/package

quality: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/pip: constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(NO_GPU),$(PIP) --retries 0 --timeout 10 --index-url $(CPU_WHEELS) torch 2>/dev/null ||) $(PIP) torch
	touch $@

.venv-floors/test: constraints-floors.txt pyproject.toml
	$(PYTHON) -m venv .venv-floors
	$(if $(NO_GPU),$(PIP) --retries 0 --timeout 10 --index-url $(CPU_WHEELS) torch 2>/dev/null ||) $(PIP) torch
	$(PIP) -e '.[plot]' hatchling hypothesis pytest pytest-timeout pytest-xdist scipy
	touch $@

.venv/demo: .venv/pip pyproject.toml
	$(PIP) -e '.[plot]'
	touch $@

.venv/docs: .venv/pip pyproject.toml
	$(PIP) -e '.[docs]'
	touch $@

.venv/test: .venv/pip pyproject.toml
	$(PIP) -e '.[plot,gpu,ray,datatrove,space,gcs,azure,docs,test]'
	touch $@

.venv/dev: .venv/test
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-floors build dist ladm-demo .coverage .pytest_cache .mypy_cache .ruff_cache
