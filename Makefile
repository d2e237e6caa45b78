# Every command a person needs. Each one makes .venv and installs what it lacks first; when nothing
# changed, that takes no time. PYTHON chooses the interpreter .venv is made with; PIP_ARGS is added
# to every pip install, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for
# the small CPU-only build of PyTorch.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
VIEW ?= 1

VENV_PYTHON := .venv/bin/python
# An installation holds for one pyproject.toml, one constraints.txt and one place: scripts in .venv
# carry absolute paths.
KEY := $(shell { cat pyproject.toml constraints.txt; pwd; } | sha256sum | cut -c1-16)
RUN_STAMP := .venv/installed-run-$(KEY)
DEV_STAMP := .venv/installed-dev-$(KEY)

.PHONY: help
help: ## Show this list (default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: install
install: $(DEV_STAMP) ## Make .venv with everything, development tools included

.PHONY: demo
demo: $(RUN_STAMP) ## Run the synthetic city end to end; VIEW=0 ends after the metrics table
	@$(VENV_PYTHON) scripts/demo.py $(if $(filter 0,$(VIEW)),--no-view --strict)

.PHONY: bench
bench: $(RUN_STAMP) ## Measure speed and memory; DATASET=prepared/dir OUT=bench.json
	@$(VENV_PYTHON) scripts/bench.py $(if $(DATASET),--dataset '$(DATASET)') $(if $(OUT),--out '$(OUT)')

.PHONY: bench-viewer
bench-viewer: $(RUN_STAMP) ## Measure a viewer; URL=..., or CHECKPOINT=logs/JOB DATASET=prepared/dir PARTITION=name
	@$(VENV_PYTHON) scripts/bench_viewer.py $(if $(URL),--url '$(URL)') $(if $(CHECKPOINT),--checkpoint '$(CHECKPOINT)') $(if $(DATASET),--dataset '$(DATASET)') $(if $(PARTITION),--partition '$(PARTITION)') $(if $(OUT),--out '$(OUT)')

.PHONY: bench-dispatch
bench-dispatch: $(RUN_STAMP) ## Measure how fast jobs start and are accepted; COLD=200 OUT=file
	@$(VENV_PYTHON) scripts/bench_dispatch.py $(if $(COLD),--cold-jobs $(COLD)) $(if $(OUT),--out '$(OUT)')

.PHONY: chaos
chaos: $(DEV_STAMP) ## Kill -9 everything while jobs run; JOBS=1000 SECONDS=600 SEED=0 OUT=chaos.json
	@$(VENV_PYTHON) scripts/chaos.py --jobs $(or $(JOBS),1000) --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0) --out '$(or $(OUT),chaos.json)'

WORKERS ?= 2
.PHONY: test
test: $(DEV_STAMP) ## Run all tests that need no GPU; PYTEST_ARGS chooses, e.g. tests/unit
	@$(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

.PHONY: lint
lint: $(DEV_STAMP) ## Check style and layout with ruff
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

.PHONY: type
type: $(DEV_STAMP) ## Check types with pyright
	@.venv/bin/pyright

$(RUN_STAMP):
	$(call install-into-venv,.)
	@touch $@

$(DEV_STAMP):
	$(call install-into-venv,.[dev])
	@touch $(RUN_STAMP) $@

# A .venv that an interrupted run left without pip is made anew. lpips comes without its
# dependencies: torchvision would need CUDA libraries, and only its weight files are used.
define install-into-venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Skyline needs Python 3.11 or newer, $(PYTHON) is older or missing; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
@echo "Installing Skyline into .venv (the first time takes some minutes)"
@rm -f .venv/installed-*
@$(VENV_PYTHON) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '$(1)'
@$(VENV_PYTHON) -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps lpips==0.1.4
@if [ -f nerfcore/precompile.py ]; then echo "Compiling kernels"; $(VENV_PYTHON) -m nerfcore.precompile; fi
endef
