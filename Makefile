# Everything a person does with this repository. `make` alone says what there is.
# The targets are thin: what they do is in scripts/, tests/ and cargo.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build image dev test chaos conformance apps engines fuzz figures bench check fmt sqlx fresh-machine clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Find or install the Docker engine and the Postgres programs (done by dev and test)
	@scripts/setup

build: ## Build bin/jetway and bin/jetway-init, both static
	@scripts/build

image: ## Make the image jetway:dev out of this machine's build (docker compose up uses it)
	@scripts/image

dev: setup build ## Run the whole system on this machine, with a demo to open in a browser
	@exec bin/jetway dev $(ARGS)

test: ## Set up and run all tests; make test ARGS="-E 'test(name)'" runs some
	@scripts/setup --test
	@tests/run $(ARGS)

chaos: ## Run everything under faults at random, as root; MINUTES=10 SEED=7 choose, ARGS="--keep-logs DIR" keeps logs
	@scripts/setup --test
	@tests/run --chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(ARGS)

conformance: ## Run the Autobahn cases against a session, at its own address and through the proxy, and compare the verdicts
	@scripts/setup --test
	@tests/run --conformance

apps: ## Use real applications in a browser (JupyterLab, wetty, …), in images of packages; APPS="yjs wetty" chooses
	@scripts/setup --apps
	@tests/run --apps $(APPS)

engines: ## Run the drone's tests and the main job with the engines that people run (26.1, 28.5, both image stores, crun, …), as root
	@scripts/setup --test
	@tests/engines/all $(if $(ROW),'$(ROW)')

fuzz: ## Feed what reads bytes from outside with chosen ones; SECONDS=60 for each, TARGETS="headers token" choose
	@scripts/setup --test
	@scripts/fuzz $(or $(SECONDS),60) $(TARGETS)

figures: ## Measure a connect stage by stage, beside bare Docker (by hand, on a quiet machine)
	@scripts/setup --test
	@tests/run --figures

bench: ## Measure the whole beside Docker and Plane, into bench/RESULTS.md; ONLY=parked,live ROUNDS=3 choose
	@scripts/setup --test
	@tests/run --bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

check: ## Formatting and lints
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

fmt: ## Format the code
	cargo fmt --all

sqlx: ## Renew .sqlx, the committed descriptions of every query
	@scripts/sqlx-prepare

fresh-machine: ## Prove the set-up on a minimal Debian (as root; takes long)
	@tests/fresh-machine/run

clean: ## Remove what was built; .jetway, with its data, stays
	rm -rf bin
	cargo clean
