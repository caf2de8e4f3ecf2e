# The commands of this project. `make demo` and `make test` need Rust, Python 3 (or Go) and a C compiler.

CARGO ?= cargo
TOOLS := $(CURDIR)/.tools
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.2
TEST_SECONDS := $(abspath $(or $(CARGO_TARGET_DIR),target))/test-seconds
FUZZ_TARGETS := job answer batch config subjects
export PATH := $(TOOLS):$(PATH)

.PHONY: demo test build bench bench-pacing bench-lies bench-backlog bench-large bench-mixed bench-merging bench-caching bench-forecast chaos fuzz cluster interop sdk sdk-types embeddings dialects contract

## demo: watch Forebay run 300 jobs over two simulated accounts
demo: nats-server
	$(CARGO) build --release --locked
	target/release/forebay demo

## test: format, lints, dependency policy, and every test, on a real nats-server; tells the slowest
test: nats-server $(TOOLS)/cargo-deny
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(TOOLS)/cargo-deny --all-features check bans licenses sources
	@rm -f $(TEST_SECONDS)
	TEST_SECONDS=$(TEST_SECONDS) $(CARGO) test --locked
	$(CARGO) test --locked -p forebay-providers --features exact-tokens exact
	@echo "The ten slowest tests of tests/it, in seconds:"
	@LC_ALL=C sort -rn $(TEST_SECONDS) | head -n 10

## build: the release binary
build:
	$(CARGO) build --release --locked

## bench: jobs per second beside the bare loop; three accounts at their limits, killed and recounted
bench: nats-server build
	$(CARGO) bench --locked --bench end_to_end
	benches/three-accounts.sh

## bench-pacing: limits and algorithms case by case; SCALE= and CASE= choose
bench-pacing: nats-server build
	benches/pacing.py
	benches/tokens.py
	benches/fairness.py

## bench-lies: refusals and the share of the true rate where the provider lies or changes; SECONDS=, AT_ONCE= and CASE= choose
bench-lies: nats-server build
	benches/lies.py

## bench-backlog: a million stored results and a million waiting jobs; start-up and memory
bench-backlog: nats-server build
	benches/backlog.py

## bench-large: small jobs beside large answers
bench-large: nats-server build
	benches/large.py

## bench-mixed: one pool over three providers with different limits
bench-mixed: nats-server build
	benches/mixed.py

## bench-merging: embeddings of many jobs in one request, beside each alone
bench-merging: nats-server build
	benches/merging.py

## bench-caching: jobs that repeat: each called, calls shared, answers kept
bench-caching: nats-server build
	benches/caching.py

## bench-forecast: what --dry-run tells beside what the run takes; CASE= chooses
bench-forecast: nats-server build
	benches/forecast.py

## chaos: faults at random, and an account that adds up; JOBS=, SECONDS= and SEED= choose
chaos: nats-server build
	benches/chaos.py

## fuzz: each fuzz target for SECONDS= (10); what once failed is tried first
fuzz: $(TOOLS)/cargo-fuzz
	@mkdir -p $(addprefix tests/fuzz/corpus/,$(FUZZ_TARGETS))
	for target in $(FUZZ_TARGETS); do \
	  $(CARGO) fuzz run --fuzz-dir tests/fuzz -s none $$target tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target -- $(or $(FUZZ_ARGS),-max_total_time=$(or $(SECONDS),10)) -rss_limit_mb=4096 || exit 1; \
	done

## cluster: Forebay on three NATS servers, one of which is lost
cluster: nats-server
	$(CARGO) test --locked --test it -- --ignored --test-threads 1 cluster::

## interop: publishers in Python, JavaScript and Go
interop: nats-server build
	tests/interop/run.sh

## sdk: the simulated provider, spoken to by the vendors' own SDKs; needs Python 3.10 and PyPI
sdk: tests/sdk/work/installed
	$(CARGO) build --locked
	tests/sdk/work/venv/bin/python -B tests/sdk/check_simulator.py $(or $(CARGO_TARGET_DIR),target)/debug/forebay

tests/sdk/work/installed: tests/sdk/requirements.txt
	python3 -m venv tests/sdk/work/venv
	tests/sdk/work/venv/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@
## sdk-types: fixtures of providers against the types of the vendors' own SDKs, in an environment of their own
sdk-types:
	python3 -m venv $(TOOLS)/sdk-types
	$(TOOLS)/sdk-types/bin/pip install --quiet --requirement tests/sdk/types/requirements.txt
	$(TOOLS)/sdk-types/bin/python -B tests/sdk/types/check_types.py

## embeddings: 2,000 real texts through a real model
embeddings: nats-server build
	examples/local-embeddings/run.sh

## dialects: one job to each simulated provider, in its own dialect, with no key of anybody's
dialects: nats-server build
	examples/simulated-providers/run.sh

## contract: write the JSON Schemas and the AsyncAPI description anew
contract:
	UPDATE_CONTRACT=1 $(CARGO) test -p forebay-schemas --test contract

.PHONY: nats-server
nats-server:
	@scripts/nats-server.sh

$(TOOLS)/cargo-fuzz:
	$(CARGO) install cargo-fuzz --version $(FUZZ_VERSION) --locked --debug --root $(TOOLS)/cargo-fuzz-root
	ln -sf $(TOOLS)/cargo-fuzz-root/bin/cargo-fuzz $@

# Unoptimised, which halves the time to build it; `bin` holds what cargo installs.
$(TOOLS)/cargo-deny:
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --root $(TOOLS)/cargo-deny-root
	ln -sf $(TOOLS)/cargo-deny-root/bin/cargo-deny $@
