# Every entry sets up what it needs (tests/setup.sh), prints what it does, and fails loudly.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check fmt scenario scenarios testbed-selftest bench-mesh bench-lag bench-pipeline soak fuzz release

DEMO_SECONDS ?=
FILE ?=
BENCH_SECONDS ?=
BENCH_ONLY ?=
SOAK_SECONDS ?=
SOAK_ONLY ?=
FUZZ_SECONDS ?= 60

help: ## List the entries
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: ## Three regions on this machine, a live table and the status page; DEMO_SECONDS=60 for an unattended run
	@tests/setup.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

test: ## Every test: checks, unit and property tests, real PostgreSQL, promtool, a real browser, the scenarios
	@tests/setup.sh test
	@$(MAKE) --no-print-directory check
	@tests/postgres-versions.sh || echo 'test: goes on without the versions of PostgreSQL that are missing'
	@tests/peers.sh victoria-metrics prometheus otelcol || echo 'test: goes on without the back ends that are missing'
	@$(MAKE) --no-print-directory release
	@echo 'test: building the programs'
	@cargo build --quiet --locked --workspace --bins
	@echo 'test: running the tests'
	@skipped=$$(mktemp); trap 'rm -f "$$skipped"' EXIT; \
	LAGMESH_SKIPPED=$$skipped cargo test --quiet --locked --workspace --no-fail-fast; \
	echo "test: $$(wc -l <"$$skipped") skipped"; cat "$$skipped"

check: ## Formatting, lints, dependencies, documents; part of `make test`
	@tests/setup.sh test
	@echo 'check: formatting'
	@cargo fmt --all --check
	@echo 'check: lints'
	@cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	@echo 'check: dependencies'
	@cargo deny --log-level error check bans licenses sources
	@echo 'check: documents'
	@RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --workspace --no-deps

scenario: ## One scenario of the testbed: make scenario FILE=any.toml; docs/testbed.md tells how to write one
	@[ -n '$(FILE)' ] || { echo 'scenario: which one? make scenario FILE=tests/scenarios/three-cities.toml' >&2; exit 64; }
	@tests/setup.sh testbed
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed run '$(FILE)'

scenarios: ## Every scenario of the library, the long ones too (about a quarter of an hour)
	@tests/setup.sh testbed
	@tests/postgres-versions.sh || echo 'scenarios: those that need a version of PostgreSQL that is missing are not run'
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed run tests/scenarios/*.toml tests/scenarios/long/*.toml

testbed-selftest: ## The emulated network held against its own settings, as a table
	@tests/setup.sh testbed
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed selftest

bench-mesh: ## Figures of the mesh beside fping and smokeping_prober (about seven minutes); BENCH_SECONDS=60 for a rough look, BENCH_ONLY=cost,loss for parts
	@tests/setup.sh bench
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed bench-mesh $(if $(BENCH_SECONDS),--seconds $(BENCH_SECONDS)) $(if $(BENCH_ONLY),--only $(BENCH_ONLY))

bench-lag: ## Figures of replication lag against the truth, beside the usual queries (about ten minutes); BENCH_SECONDS=60 for a rough look, BENCH_ONLY=error,frozen for parts
	@tests/setup.sh testbed
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed bench-lag $(if $(BENCH_SECONDS),--seconds $(BENCH_SECONDS)) $(if $(BENCH_ONLY),--only $(BENCH_ONLY))

bench-pipeline: ## Figures of collectors beside VictoriaMetrics and an OpenTelemetry Collector (about six minutes); BENCH_SECONDS=60 for a rough look, BENCH_ONLY=ingest,rivals for parts
	@tests/setup.sh testbed
	@tests/peers.sh victoria-metrics otelcol || echo 'bench-pipeline: goes on without those that are missing'
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed bench-pipeline $(if $(BENCH_SECONDS),--seconds $(BENCH_SECONDS)) $(if $(BENCH_ONLY),--only $(BENCH_ONLY))

soak: ## Ten million probes, ten thousand deaths of a collector and two thousand of agents, an hour without false alarms (three hours); SOAK_SECONDS=60 for each, SOAK_ONLY=mesh,deaths,agent-deaths,alarms
	@tests/setup.sh testbed
	@$(MAKE) --no-print-directory release
	@exec target/release/lagmesh-testbed soak $(if $(SOAK_SECONDS),--seconds $(SOAK_SECONDS)) $(if $(SOAK_ONLY),--only $(SOAK_ONLY))

fuzz: ## Fuzz the parsers of mesh packets for FUZZ_SECONDS=60 per target; needs a nightly toolchain and cargo-fuzz
	@cargo fuzz --version >/dev/null || { echo 'fuzz: cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2; exit 1; }
	@cd agent; for target in reflector peer tlv; do \
	echo "fuzz: $$target for $(FUZZ_SECONDS) s; what is found stays in agent/fuzz/found/$$target"; mkdir -p fuzz/found/$$target; \
	cargo +nightly fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=1600 -print_final_stats=1; done

release:
	@echo 'release: building in release mode (some minutes the first time)'
	@cargo build --quiet --release --locked --workspace --bins

fmt: ## Format everything
	@cargo fmt --all
