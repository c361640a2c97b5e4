# One command each: `make help` lists them. Nothing here names a package index: the ordinary clients use their own.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ARGS ?=
ROW ?=
JOBS ?= 2
UV ?= uv
BIN := .venv/bin
SOURCES := proxy tests benchmarks
# loadgroup: tests marked with one `xdist_group` share a worker, and with it their registries and images.
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadgroup

.PHONY: help setup run parts lint format test test-all bench bench-peers soak faults wheels image lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s @

setup: .venv/.stamp ## makes .venv from the lock file; nothing to do when neither it nor pyproject.toml changed
	@:

.venv/.stamp: requirements.lock pyproject.toml tests/setup-venv.sh
	@tests/setup-venv.sh
	@touch $@

run: setup ## starts Cistern; Ctrl-C ends it; ARGS="--config x.yaml" is passed on
	@exec $(BIN)/cistern serve $(ARGS)

parts: ## installs the real clients and registries that the tests use (Debian packages; needs root)
	@tests/install-debian.sh

lint: setup ## format, lint and types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: setup ## rewrites the files as `make lint` wants them
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

test: setup parts lint ## the whole gate: what .ci/run calls
	$(PYTEST) -m "not long" $(ARGS)

test-all: setup parts lint ## the long form: whole fault sweeps, the image build, the soak
	$(PYTEST) $(ARGS)

bench: setup parts ## the benchmarks against the peers: a table of ratios, JSON and a picture; ROW=warm runs one topic
	$(BIN)/python -m benchmarks $(if $(ROW),--only $(ROW)) $(ARGS)

bench-peers: ## more peers for them: Varnish, Squid (Debian), Distribution 3 and zot (where a Go toolchain is)
	benchmarks/install-peers.sh

soak: setup parts ## an hour of mixed clients, kills and upstream faults; ARGS="--seconds 600 --seed 7" for another
	$(BIN)/python -m tests.soak $(ARGS)

faults: setup parts ## the fault rows against Cistern and docker-registry; ARGS="--out" writes docs/faults.md
	$(BIN)/python -m benchmarks.faults $(ARGS)

wheels: setup ## the wheels that the image is built from, in dist/wheels
	@tests/make-wheels.sh dist/wheels

image: wheels ## the container image, by buildah: ARGS="--build-arg BASE=..." chooses the base
	buildah bud --tag cistern $(ARGS) .

lock: ## makes requirements.lock anew from pyproject.toml (needs uv: UV=path/to/uv)
	$(UV) pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet -o requirements.lock

clean: ## removes .venv, the caches and what was built
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist benchmarks/out
