# Promptdial's commands. `make` alone lists them. Everything is installed into $(VENV), once, at the locked versions;
# only Python 3.11+, make and git must be there before.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input --quiet
PYTEST_ARGS ?=
# An index that holds CPU builds of torch, where the default index has only CUDA builds for this system (see README.md).
TORCH_INDEX ?=
# A running service to put load on; without one, a service is started on a free port.
LOADTEST_URL ?=
# Where training puts its data, checkpoints and reports.
RUNS ?= runs
# Programs that the system tests drive, and the Debian packages that hold them.
SYSTEM_TOOLS := curl prometheus promtool podman runc mmdebstrap docker-compose
SYSTEM_PACKAGES := curl prometheus podman runc mmdebstrap docker-compose

.DEFAULT_GOAL := help
.PHONY: help serve test test-system test-llamacpp image-check lint check bench bench-peers loadtest loadtest-open train-small export-small lock clean
.SUFFIXES:

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { gsub(/\$$\(RUNS\)/, "$(RUNS)", $$2); printf "  make %-14s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

serve: $(VENV)/.serve ## Serve models/small on 127.0.0.1:8000; PROMPTDIAL_HOST, _PORT and _BUNDLE change that
	@exec $(VENV)/bin/python -m service

test: $(VENV)/.dev ## Run every test that needs only what pip installs
	@$(VENV)/bin/python -m pytest -m "not system" --numprocesses auto --dist loadfile $(PYTEST_ARGS)

test-system: $(VENV)/.dev system-tools ## Run the tests against system programs (installs Debian packages)
	@$(VENV)/bin/python -m pytest -m "system and not llamacpp" $(PYTEST_ARGS)

test-llamacpp: $(VENV)/.dev ## Run the test against llama.cpp's server; compiles it into .venv-peers once, which takes minutes
	@$(VENV)/bin/python -m pytest --capture=no -m llamacpp $(PYTEST_ARGS)

image-check: $(VENV)/.dev system-tools ## Build the image with podman, run it, ask it, end it; figures in build/image.json
	@IMAGE_REPORT=build/image.json $(VENV)/bin/python -m pytest --capture=no -m system tests/test_image.py $(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style, formatting and types
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

check: lint test ## Everything a change must pass: lint, then test

bench: $(VENV)/.dev ## Time our engine alone: prefill, steps, share of the floor, operators (BENCH_ARGS)
	@$(VENV)/bin/python -m loadtest.bench $(BENCH_ARGS)

bench-peers: $(VENV)/.dev ## Compare our engine with others; sets up .venv-peers once, which takes minutes (PEERS_ARGS)
	@$(VENV)/bin/python -m loadtest.peers run $(PEERS_ARGS)

loadtest: $(VENV)/.dev ## Two minutes of Locust on a service that it starts, or on LOADTEST_URL (LOADTEST_ARGS)
	@$(VENV)/bin/python -m loadtest.closed $(if $(LOADTEST_URL),--url $(LOADTEST_URL)) $(LOADTEST_ARGS)

loadtest-open: $(VENV)/.dev ## Open loop: find the knee, hold the load around it, check refusals (LOADTEST_URL, LOADTEST_ARGS)
	@$(VENV)/bin/python -m loadtest.openloop $(if $(LOADTEST_URL),--url $(LOADTEST_URL)) $(LOADTEST_ARGS)

train-small: $(RUNS)/episodes/tokenizer.json ## Data to checkpoint: PROMPTDIAL_DATA_DIR to $(RUNS)/small; goes on where it was stopped
	@$(VENV)/bin/python -m training train --recipe small --episodes $(RUNS)/episodes --out $(RUNS)/small

export-small: $(VENV)/.dev ## Checkpoint to evaluated bundle: $(RUNS)/small/final to $(RUNS)/small/bundle
	@$(VENV)/bin/python -m export $(RUNS)/small/final $(RUNS)/small/bundle --name small --precision int8 --hf-checkpoint
	@$(VENV)/bin/python -m training evaluate $(RUNS)/small/bundle --episodes $(RUNS)/episodes --write \
		--out $(RUNS)/evaluation/small

# The card is the last file that `prepare` writes.
$(RUNS)/episodes/CARD.md: | $(VENV)/.dev
	@$(VENV)/bin/python -m training prepare --out $(RUNS)/episodes

$(RUNS)/episodes/tokenizer.json: $(RUNS)/episodes/CARD.md | $(VENV)/.dev
	@$(VENV)/bin/python -m training tokenizer --recipe small --episodes $(RUNS)/episodes

lock: $(VENV)/.dev ## Resolve requirements/*.txt anew from pyproject.toml (LOCK_ARGS=--upgrade for newer versions)
	@$(LOCK) --extra serve --extra train --extra export --extra loadtest --extra ray --extra trace --extra dev --no-emit-package torch \
		-o requirements/dev.txt
	@$(LOCK) --extra serve -c requirements/dev.txt -o requirements/serve.txt
	@$(LOCK) --extra gpu -c requirements/dev.txt -o requirements/gpu.txt

LOCK = $(VENV)/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header $(LOCK_ARGS) pyproject.toml

clean: ## Remove caches and builds; the environment, runs and models stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# --- set-up -----------------------------------------------------------------------------------------------------------
# Each stamp is newer than the files it was made from, so that a second run installs nothing. Lists are complete and
# consistent with each other: --no-deps keeps pip from adding to them, and `serve` and `test` share one environment.

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Promptdial needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
			"Name a newer one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: requirements/serve.txt $(VENV)/.made
	@echo "Installing the service into $(VENV)"
	@$(PIP) install --no-deps --require-hashes -r requirements/serve.txt
	@touch $@

# Torch comes after what it requires, in a call of its own: pip asks for hashes of all packages of a call or of none.
$(VENV)/.dev: requirements/dev.txt requirements/torch.txt $(VENV)/.made
	@echo "Installing everything for training, export and tests into $(VENV); this takes minutes once"
	@$(PIP) install --no-deps --require-hashes -r requirements/dev.txt
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	@touch $@ $(VENV)/.serve

.PHONY: system-tools
system-tools:
	@missing=; for tool in $(SYSTEM_TOOLS); do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "The system tests need these programs on the PATH:$$missing" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi; \
	echo "Installing Debian packages for$$missing"; \
	$$as_root apt-get update -qq && $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
		--no-install-recommends $(SYSTEM_PACKAGES) >/dev/null
