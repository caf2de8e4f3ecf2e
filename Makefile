# The commands of this project. `make demo` and `make test` need Rust, Python 3 (or Go) and a C compiler.

CARGO ?= cargo
TOOLS := $(CURDIR)/.tools
DENY_VERSION := 0.20.2
export PATH := $(TOOLS):$(PATH)

.PHONY: demo test build bench bench-pacing interop embeddings contract

## demo: watch Forebay run 300 jobs over two simulated accounts
demo: nats-server
	$(CARGO) build --release --locked
	target/release/forebay demo

## test: format, lints, dependency policy, and every test, on a real nats-server
test: nats-server $(TOOLS)/cargo-deny
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(TOOLS)/cargo-deny --all-features check bans licenses sources
	$(CARGO) test --locked
	$(CARGO) test --locked -p forebay-workers --features exact-tokens exact

## build: the release binary
build:
	$(CARGO) build --release --locked

## bench: jobs per second beside the bare loop; three accounts at their limits, killed and recounted
bench: nats-server build
	$(CARGO) bench --locked --bench end_to_end
	benches/three-quotas.sh

## bench-pacing: limits and algorithms case by case; SCALE= and CASE= choose
bench-pacing: nats-server build
	benches/pacing.py
	benches/fairness.py

## interop: publishers in Python, JavaScript and Go
interop: nats-server build
	tests/interop/run.sh

## embeddings: 2,000 real texts through a real model
embeddings: nats-server build
	examples/local-embeddings/run.sh

## contract: write the JSON Schemas and the AsyncAPI description anew
contract:
	UPDATE_CONTRACT=1 $(CARGO) test -p forebay-schemas --test contract

.PHONY: nats-server
nats-server:
	@scripts/nats-server.sh

# Unoptimised, which halves the time to build it; `bin` holds what cargo installs.
$(TOOLS)/cargo-deny:
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --root $(TOOLS)/cargo-deny-root
	ln -sf $(TOOLS)/cargo-deny-root/bin/cargo-deny $@
