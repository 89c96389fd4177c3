# Everything here also runs in CI or is a shortcut to what a README names. `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.plain ## Set up, start Seaway, deploy a real model, predict once, keep serving (PORT=8081: there)
	@$(BIN)/python scripts/run_demo.py $(PORT)

test: dev ## Set up everything and run all tests
	@scripts/test

install: .venv/.plain ## The package alone, into .venv

dev: .venv/.dev ## The package with everything its tests need, into .venv

unit: dev ## Tests of single rooms: no process, no socket
	@$(PYTEST) tests/unit

integration: dev ## Real servers, real workers, SQLite and PostgreSQL
	@$(PYTEST) tests/integration

conformance: dev ## The protocols, with the clients that people have
	@$(PYTEST) tests/conformance

docs: dev ## Run what README and docs show, check links and settings
	@$(PYTEST) tests/docs

load: dev ## Short load tests: nothing lost during deploys, memory flat
	@$(BIN)/python -m pytest -n 0 tests/load

bench: ## Speed, cost and isolation beside other servers: 20 minutes (OPTIONS="--quick" for one)
	@scripts/setup_benchmarks
	@benchmarks/.venvs/bench/bin/python benchmarks/run.py $(OPTIONS)

bench-all: ## The same with all servers that install here
	@scripts/setup_benchmarks all
	@benchmarks/.venvs/bench/bin/python benchmarks/run.py --all $(OPTIONS)

bench-batching: ## Dynamic batching beside LitServe and mosec, on the CPU: half an hour (OPTIONS="--quick")
	@scripts/setup_benchmarks batching
	@benchmarks/.venvs/batching/bin/python benchmarks/batching.py $(OPTIONS)

bench-gpu: ## The same on a CUDA device, with requests of 64 samples; needs a torch with CUDA (BENCH_PYTHON=python)
	@$(or $(BENCH_PYTHON),benchmarks/.venvs/batching/bin/python) benchmarks/batching.py --device cuda --rows 64 $(OPTIONS)

check: lint types layers ## What must be clean before a commit, besides tests

lint: dev ## Style and likely mistakes
	@$(BIN)/ruff check .

fix: dev ## Mend what can be mended by machine
	@$(BIN)/ruff check --fix .

types: dev ## Type check
	@$(BIN)/mypy

layers: dev ## Imports point down
	@$(BIN)/lint-imports

size: ## How large a plain install is
	@scripts/install_size

build: dev ## Wheel and source archive, into dist/
	@$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

up: ## Seaway with PostgreSQL in containers
	docker compose --file deploy/compose/compose.yaml up --build --detach

down: ## Stop the containers; their data stays
	docker compose --file deploy/compose/compose.yaml down

clean: ## Remove the environment, caches and built files; keeps .seaway
	rm -rf .venv .cache dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Installed again only when what is to be installed has changed.
.venv/.plain: pyproject.toml scripts/setup
	@scripts/setup plain

.venv/.dev: pyproject.toml constraints-dev.txt examples/weights.txt scripts/setup
	@scripts/setup dev

.PHONY: help run test install dev unit integration conformance docs load bench bench-all bench-batching bench-gpu check lint fix types layers size build up down clean
