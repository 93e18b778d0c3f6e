# The everyday commands. Each one sets up what it needs first; a set-up that is up to date takes about a second.
# ROS_DISTRO=jazzy make test  runs on the Jazzy wheels; with a sourced ROS 2 installation, on that.

SHELL := bash
.DEFAULT_GOAL := help
RUN := tools/run

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

.PHONY: setup
setup: ## Make the environment ready: Debian packages, Python requirements, build
	@tools/setup.sh

.PHONY: test
test: setup ## Run all tests (ARGS="-k name" chooses)
	@$(RUN) python -m pytest $(ARGS)
