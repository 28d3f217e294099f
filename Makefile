# The single door to the project. `make run` and `make test` need Rust, Python 3 with pip, and root or sudo once
# (for mosquitto-clients, tests only); everything else they fetch themselves, into .tools/. Tests with nsc and the nats CLI
# need Go as well, which is fetched where there is none.

.DEFAULT_GOAL := help
SHELL := /bin/bash

# Cargo's own variable: compiler processes at the same time. Two keep a small machine usable.
export CARGO_BUILD_JOBS ?= 2

# release: the first build takes some minutes, and then it is the program whose speed is worth judging. PROFILE=dev
# shares its build with `make test`.
PROFILE ?= release
# Options for nats-mqtt: make run ARGS="--listen 127.0.0.1:1884 --log-level debug"
# Options for the benchmark: make bench ARGS="--rows qos1-1:1 --rounds 5"
ARGS ?=
# Options for every cargo command, such as --locked.
CARGO_FLAGS ?=
# Options for the tests: make test TEST_ARGS="-p proto-map"
TEST_ARGS ?= --workspace

# Modes of authentication that some of the integration tests run in besides `none`: make test-modes MODES=jwt
MODES ?= file nats jwt oidc
MODE_TESTS ?= modes protocol wire sessions wills wills_outage retained shared requests events rights logs
# Modules that are left out though their names contain one of those.
MODE_SKIPPED := proxy_protocol store store_sessions shared_logs limits_sessions limits_retained

TOOLS := .tools
TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/nats-mqtt

# What the program and the tests find the tools by.
export NATS_SERVER ?= $(CURDIR)/$(TOOLS)/bin/nats-server
export PYTHONPATH := $(CURDIR)/$(TOOLS)/python$(if $(PYTHONPATH),:$(PYTHONPATH))
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(TOOLS)/server.stamp ## Build, then serve MQTT on 1883 and 8083 with a nats-server of its own (data in ./data)
	cargo build $(CARGO_FLAGS) --profile $(PROFILE) --bin nats-mqtt
	@exec $(BINARY) --embedded $(ARGS)

.PHONY: test
test: tools ## Run every test: unit, property, and integration against a real nats-server, some in every mode
	cargo test $(CARGO_FLAGS) $(TEST_ARGS)
	@$(if $(filter --workspace,$(TEST_ARGS)),$(MAKE) --no-print-directory test-modes)

.PHONY: test-modes
test-modes: tools ## Run integration tests in the other modes of authentication
	@set -e; for mode in $(MODES); do \
	    echo "TEST_AUTH=$$mode"; \
	    TEST_AUTH=$$mode cargo test $(CARGO_FLAGS) --workspace --test integration -- $(MODE_TESTS:%=%::) $(MODE_SKIPPED:%=--skip %::); \
	done

.PHONY: ci
ci: ## What has to pass before a change lands: format, lints, docs, tests
	.ci/run

.PHONY: bench
bench: $(TOOLS)/server.stamp ## Measure beside nats-server's own MQTT and mosquitto (docs/performance.md)
	cargo build $(CARGO_FLAGS) --profile $(PROFILE) -p nats-mqtt -p mqtt-bench --bin nats-mqtt --bin mqtt-bench
	@exec $(dir $(BINARY))mqtt-bench compare $(ARGS)

.PHONY: tools
tools: $(TOOLS)/server.stamp $(TOOLS)/python.stamp $(TOOLS)/nsc.stamp ## Fetch what running and testing needs
	@scripts/tools.sh mosquitto
	@[[ -e $(TOOLS)/slapd.stamp ]] || if scripts/tools.sh slapd; then touch $(TOOLS)/slapd.stamp; fi
	@[[ -e $(TOOLS)/browser.stamp ]] || if scripts/tools.sh browser; then touch $(TOOLS)/browser.stamp; fi
	@[[ -e $(TOOLS)/haproxy.stamp ]] || if scripts/tools.sh haproxy; then touch $(TOOLS)/haproxy.stamp; fi
	@[[ -e $(TOOLS)/node.stamp ]] || if scripts/tools.sh node; then touch $(TOOLS)/node.stamp; fi

# A stamp is older than the script that says what to fetch: fetch again.
$(TOOLS)/server.stamp: scripts/tools.sh
	@scripts/tools.sh server
	@touch $@

$(TOOLS)/python.stamp: scripts/tools.sh
	@scripts/tools.sh python
	@touch $@

# Without the stamp it is tried again with the next `make tools`.
$(TOOLS)/nsc.stamp: scripts/tools.sh scripts/tools/go.mod scripts/tools/go.sum
	@if scripts/tools.sh nsc; then touch $@; fi

.PHONY: conformance
conformance: ## Bring docs/conformance.toml in step with the clauses that the code cites
	scripts/conformance.py --write

.PHONY: structure
structure: ## Check that dependencies point one way, and that no modules make a ring
	scripts/structure_test.py
	scripts/structure.py

.PHONY: licences
licences: ## Check the licences of all dependencies against deny.toml
	scripts/licences.py

.PHONY: clean
clean: ## Remove what was built and fetched; ./data stays
	cargo clean
	rm -rf $(TOOLS)
