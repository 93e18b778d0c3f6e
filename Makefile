# The everyday commands. Each one sets up what it needs first; a set-up that is up to date takes about a second.
# ROS_DISTRO=jazzy make test  runs on the Jazzy wheels; with a sourced ROS 2 installation, on that.

SHELL := bash
.DEFAULT_GOAL := help
RUN := tools/run
# Tests at a time. Those of nodes wait for four fifths of their time, so three keep two cores busy.
WORKERS ?= 3

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

.PHONY: setup
setup: ## Make the environment ready: Debian packages, Python requirements, build
	@tools/setup.sh

.PHONY: test
test: setup ## Run all tests (TIER=unit, ros or system: those only; ARGS="-k name" chooses)
	@$(RUN) python -m pytest --numprocesses $(WORKERS) $(if $(TIER),--tier $(TIER)) \
		$(if $(RERUNS),--rerun-system $(RERUNS)) $(ARGS)

.PHONY: lint
lint: setup ## Check style (ruff), types (mypy), import directions (import-linter), shell scripts (shellcheck)
	@$(RUN) ruff check .
	@$(RUN) ruff format --check --quiet . || { echo "run 'make format'" >&2; exit 1; }
	@$(RUN) mypy
	@$(RUN) lint-imports --no-logo
	@$(RUN) shellcheck tools/*.sh tools/*.bash tools/run .ci/run

.PHONY: format
format: setup ## Put the code into shape
	@$(RUN) ruff check --fix --quiet . || true
	@$(RUN) ruff format --quiet .

.PHONY: schemas
schemas: setup ## Make the JSON Schemas that are shipped for editors, and the reference of contracts, anew, after a change of a Config
	@tools/run user schemas src/user_bringup/schemas --ours
	@text=$$(tools/run python -m user_hal.robots.ros2.contract.reference) && \
		printf '%s\n' "$$text" > docs/reference/contract.md

.PHONY: demo
demo: setup ## Watch a simulated arm learn to insert a peg (ARGS="--robot ur5e --seed 1" chooses)
	@$(RUN) user demo $(ARGS)

.PHONY: demo-edge-cloud
demo-edge-cloud: setup ## The demo over a bad link that is cut three times (as root: network namespaces)
	@$(RUN) python examples/edge_cloud_demo.py $(ARGS)

.PHONY: bench
bench: setup ## Run all benchmarks, each beside its peer (BENCH="codec simulation" chooses)
	@for script in $(or $(wildcard $(BENCH:%=benchmarks/*/%.py)),$(wildcard benchmarks/*/*.py)); do \
		echo "== $$script"; $(RUN) python $$script $(ARGS) || exit 1; done

.PHONY: docs
docs: setup ## Build the documentation site, with the reference from the code, into build/docs
	@tools/docs.sh $(ARGS)

.PHONY: clean
clean: ## Remove what was built; the environments stay
	rm -rf build* install* log* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: distclean
distclean: clean ## Remove the environments too
	rm -rf .venv*
