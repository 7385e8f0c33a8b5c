# `make` alone lists the targets. Each is one command: what it does stands in scripts/.
.DEFAULT_GOAL := help
.PHONY: help build check test demo bench bench-peers clean-servers

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

build: ## build the release binary, target/release/haul
	cargo build --release --locked

check: ## formatting, lints, documentation, licences and sources of dependencies, fixtures
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --all-features
	scripts/servers.sh deny --locked check licenses bans sources
	fixtures/make.py --check

test: ## all tests against real servers (Ceph RGW, SeaweedFS); ARGS="..." goes to cargo test
	scripts/test.sh $(ARGS)

demo: ## sync, delete, restore and compare against a real S3 server
	scripts/demo.sh

bench: ## benches of the engine; ARGS="..." goes to cargo bench
	cargo bench --locked --bench engine $(ARGS)

bench-peers: ## side by side with juicefs, s5cmd and rclone; ARGS="..." goes to benches/peers.py
	scripts/bench-peers.sh $(ARGS)

clean-servers: ## end the servers of this checkout, also those of a run that was killed, and remove their data
	@for state in target/servers target/servers/*.*/; do \
	  [ ! -d "$$state" ] || HAUL_SERVERS_DIR=$$state scripts/servers.sh stop rgw seaweed; \
	done
	@rm -rf target/servers/*.*/
