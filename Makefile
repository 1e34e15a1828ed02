# Every command of the project. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
export PYTHONUNBUFFERED := 1
# Where a machine forbids it, every process of ours would compile all of our code again.
export PYTHONDONTWRITEBYTECODE :=

##@ Use it
.PHONY: help run migrate doctor kafka
help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.stamp-base ## Install what is missing and start the platform on http://127.0.0.1:8080 (GUARDIAN_PORT, GUARDIAN_HOME)
	@exec $(BIN)/guardian up

migrate: .venv/.stamp-base ## Bring the database of DATABASE_URL to the newest version
	@exec $(BIN)/guardian migrate

kafka: .venv/.stamp-base ## Run a Kafka broker on 127.0.0.1:9092 until Ctrl-C (Java 17 and Maven; ARGS="--port 9093")
	@exec $(BIN)/python -m deploy.kafka up $(ARGS)

doctor: .venv/.stamp-base ## Say what this machine lacks, and the command that mends it
	@exec $(BIN)/guardian doctor

##@ Work on it
.PHONY: install test lint format types contracts lock clean
install: .venv/.stamp-dev ## Install the locked packages, tools and tests included

test: .venv/.stamp-dev ## Run every test, with coverage (ARGS="-k name" narrows it down; PYTEST_WORKERS=4)
	@deploy/scripts/test.sh $(ARGS)

lint: .venv/.stamp-dev ## Check style, formatting and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: .venv/.stamp-dev ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

types: .venv/.stamp-dev ## Check the types
	$(BIN)/mypy

contracts: .venv/.stamp-dev ## Write openapi/ (OpenAPI, AsyncAPI, event schemas) from the code
	$(BIN)/guardian contracts

lock: .venv/.stamp-dev ## Resolve requirements/*.in into requirements/*.txt again (LOCK_ARGS=--upgrade)
	@deploy/scripts/lock.sh $(LOCK_ARGS)

clean: ## Remove what the commands above made (the data in .guardian/ stays)
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Measure it
.PHONY: bench-start bench-tenancy bench-api bench-events bench-limiter bench-gateway
bench-start: .venv/.stamp-dev ## Fresh clone to first call, later start, idle memory and CPU, Ctrl-C
	@$(BIN)/python -m tests.bench.start $(ARGS)

bench-tenancy: .venv/.stamp-dev ## What row-level security costs on a million contacts
	@$(BIN)/python -m tests.bench.tenancy $(ARGS)

bench-api: .venv/.stamp-dev ## CPU per request beside a plain FastAPI app, latency under open-loop load
	@$(BIN)/python -m tests.bench.api $(ARGS)

bench-events: .venv/.stamp-dev ## Outbox to effect through PostgreSQL and Kafka beside pgqueuer and FastStream; --split
	@$(BIN)/python -m tests.bench.events $(ARGS)

bench-limiter: .venv/.stamp-dev ## Limits decided by four processes beside limits with async Redis, exactness counted (PROFILE=1)
	@$(BIN)/python -m tests.bench.limiter $(ARGS)

bench-gateway: .venv/.stamp-dev ## What a signed request costs beside Caddy, nginx and FastAPI proxies; latency; streams (PROFILE=1; needs Go)
	@$(BIN)/python -m tests.bench.gateway $(ARGS)

##@ Break it
.PHONY: chaos-events chaos-limiter chaos-gateway
SEEDS ?= 1-10
chaos-gateway: SEEDS = 1-5
BUS ?= both
chaos-events: .venv/.stamp-dev ## Kill everything that carries events and show that none is lost (SEEDS=1-10, BUS=postgres|kafka|both)
	@$(BIN)/python -m tests.chaos.events --seeds $(SEEDS) --bus $(BUS) $(ARGS)

chaos-limiter: .venv/.stamp-dev ## Break everything that enforces limits and show that none is passed (SEEDS=1-10, ARGS="--mutant return-twice")
	@$(BIN)/python -m tests.chaos.limiter --seeds $(SEEDS) $(ARGS)

chaos-gateway: .venv/.stamp-dev ## Break everything around two gateways, overload them, hold them up (SEEDS=1-5, ARGS="--part a,b,c --mutant ignore-keys")
	@$(BIN)/python -m tests.chaos.gateway --seeds $(SEEDS) $(ARGS)

# Stamps make an up-to-date environment cost nothing.
.venv/.stamp-base: requirements/base.txt pyproject.toml deploy/scripts/install.sh
	@deploy/scripts/install.sh base

.venv/.stamp-dev: requirements/base.txt requirements/dev.txt pyproject.toml deploy/scripts/install.sh
	@deploy/scripts/install.sh dev
