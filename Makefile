# The targets for people. `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help

LISTEN ?= 127.0.0.1:8080
ORT_DYLIB_PATH ?= $(CURDIR)/.onnxruntime/libonnxruntime.so.1.31.1
export ORT_DYLIB_PATH
# ONNX Runtime's telemetry. See docs/telemetry.md.
export ORT_DISABLE_TELEMETRY ?= 1

BINARY := $(or $(CARGO_TARGET_DIR),target)/release/classifyd

.PHONY: help setup setup-gpu setup-trainer serve test gpu-check gpu-pack test-system test-accuracy check-deploy train bench telemetry soak attack fuzz fuzz-quick fmt fmt-check lint doc deny openapi web test-web test-openapi screenshots clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Fetch ONNX Runtime into .onnxruntime/
	@scripts/setup-onnxruntime.sh

setup-gpu: ## Fetch ONNX Runtime for CUDA 13; find or fetch CUDA and cuDNN
	@scripts/setup_gpu.py

setup-trainer: ## Fetch libtorch for the trainer into the user's cache
	@scripts/setup-libtorch.sh >/dev/null

serve: setup ## Build and start the server on LISTEN (127.0.0.1:8080)
	@cargo build --release
	@echo "Starting on $(LISTEN); for another address: make serve LISTEN=127.0.0.1:9000. README.md has example requests."
	@exec $(BINARY) serve --config classifyd.toml --listen $(LISTEN)

# libtorch is outside the clone, so the build needs its location.
TRAINER = LIBTORCH="$$(scripts/setup-libtorch.sh | tail -n 1)"

test: setup ## Run all tests that need no root; fetches libtorch and the data sets once
	cargo test --workspace --exclude trainer
	@# The caller-runs protocol of batching in every order of its steps; see batching/src/caller_runs.rs.
	RUSTFLAGS="--cfg loom" CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false cargo test -p batching --lib --target-dir $(or $(CARGO_TARGET_DIR),target)/loom loom_tests
	cargo test -p classifyd --features otlp --test otlp
	cargo build --quiet -p classifyd -p benches
	CLASSIFYD_PROGRAMS=$(or $(CARGO_TARGET_DIR),target)/debug scripts/gpu_test.py
	$(TRAINER) cargo test -p trainer
	$(TRAINER) scripts/test-accuracy-over-http.sh digits

test-system: setup ## Run the tests with HAProxy, nginx, Prometheus and Chromium, which it installs from Debian (as root)
	scripts/setup-system-tests.sh
	cargo test -p classifyd --test system -- --ignored --nocapture --test-threads 1
	$(MAKE) test-web test-openapi

check-deploy: ## Check the Dockerfile, docker-compose.yml, manifests, chart and systemd unit
	scripts/check-deploy.sh

test-accuracy: setup ## Send every test image and review of the shipped classifiers over HTTP; fetches the data sets
	$(TRAINER) PROFILE=release scripts/test-accuracy-over-http.sh

# The commands of the model cards. Interrupted runs resume.
train: setup ## Retrain the shipped classifiers and write models/*/1
	$(TRAINER) cargo build --release -p trainer
	target/release/trainer fetch mnist
	target/release/trainer train digits --network mlp --resume
	target/release/trainer train digits --compare runs/digits-mlp/digits/1 --resume
	target/release/trainer fetch cifar10
	target/release/trainer train images --network plain --resume
	target/release/trainer train images --threads 1 --compare runs/images-plain/images/1 --resume
	target/release/trainer fetch fashion-mnist
	target/release/trainer train fashion --network mlp --resume
	target/release/trainer train fashion --threads 1 --compare runs/fashion-mlp/fashion/1 --resume
	target/release/trainer fetch imdb
	target/release/trainer fetch glove
	target/release/trainer train sentiment --network ngrams --resume
	target/release/trainer train sentiment --network mean --threads 1 --resume
	target/release/trainer train sentiment --network cnn --run runs/sentiment-blend --resume
	target/release/trainer train sentiment --network cnn-random --threads 1 --resume
	target/release/trainer train sentiment --network blend-random --run runs/sentiment-cnn-random --threads 1 --resume
	target/release/trainer train sentiment --resume

benches/.venv/ready: benches/requirements.txt
	python3 -m venv benches/.venv
	benches/.venv/bin/pip install --quiet -r benches/requirements.txt
	benches/.venv/bin/python benches/make_models.py
	touch $@

bench: setup benches/.venv/ready ## Benchmark against the floors, on an idle machine; PEERS=all includes other servers
	cargo build --release -p classifyd -p benches
	target/release/compare --write $(if $(PEERS),--peers $(PEERS))

gpu-check: setup-gpu benches/.venv/ready ## On a machine with a GPU: compare results, measure, write docs/performance-gpu.md
	cargo build --release -p classifyd -p benches
	scripts/gpu_check.py --write $(GPU_CHECK)

gpu-pack: setup-gpu benches/.venv/ready ## Pack what gpu-check needs into target/gpu-pieces, for a machine without a network
	cargo build --release -p classifyd -p benches
	rm -rf target/gpu-pieces
	scripts/gpu-pack.sh pack $(GPU_PACK) target/gpu-pieces

telemetry: setup benches/.venv/ready ## Measure the cost of the access log, on an idle machine
	cargo build --release -p classifyd -p benches
	target/release/telemetry

soak: setup ## Run ten minutes of load with invalid requests mixed in, on an idle machine
	cargo build --release -p classifyd -p benches
	target/release/soak --minutes 10

attack: setup ## Measure loads designed to hurt the server, on an idle machine; writes docs/threat-model.md
	cargo build --release -p classifyd -p benches
	target/release/attack --write

# Total seconds.
FUZZ_SECONDS ?= 3600

fuzz: ## Fuzz for an hour (or FUZZ_SECONDS), divided among the targets
	scripts/fuzz.sh $$(($(FUZZ_SECONDS) / 5)) 1

fuzz-quick: ## Fuzz each target for a minute, two at a time
	scripts/fuzz.sh 60 2

fmt: ## Format the code
	cargo fmt --all

fmt-check: ## Fail if the code is not formatted
	cargo fmt --all --check

lint: ## Fail on any warning, and on a comment line of more than 100 columns
	scripts/check-comments.py
	cargo clippy --workspace --exclude trainer --all-targets -- -D warnings
	cargo clippy -p classifyd --features otlp --all-targets -- -D warnings
	cargo clippy -p classifier --no-default-features --lib -- -D warnings
	cargo clippy -p classifier --no-default-features --features text --lib -- -D warnings
	cargo clippy -p classifier --no-default-features --features gpu --lib -- -D warnings
	scripts/onnx-proto.sh --check
	$(TRAINER) cargo clippy -p trainer --all-targets -- -D warnings

doc: ## Build the documentation of the crates, private items included; fail on any warning
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude trainer --no-deps --document-private-items
	$(TRAINER) RUSTDOCFLAGS="-D warnings" cargo doc -p trainer --no-deps --document-private-items

deny: ## Check licences, sources, versions and known vulnerabilities of all dependencies with cargo-deny
	@scripts/check-dependencies.sh

web: web/node_modules/ready ## Build the scripts of the pages into web/dist/, which is checked in
	cd web && npm run --silent build

web/node_modules/ready: web/package.json web/package-lock.json
	cd web && npm ci --silent
	touch $@

test-web: setup web/node_modules/ready ## Test the pages in Chromium, and a generated client
	cargo build -p classifyd
	cd web && npm test --silent

test-openapi: setup ## Look for differences between the OpenAPI document and the server with Schemathesis
	cargo build -p classifyd
	scripts/test-openapi.sh

screenshots: setup web/node_modules/ready ## Retake the screenshots in docs/images/
	cargo build --release -p classifyd
	cd web && CLASSIFYD_BINARY=../$(BINARY) node screenshots.mjs

openapi: setup ## Generate openapi/openapi.json and openapi.yaml from the code
	cargo run --quiet -- openapi > openapi/openapi.json
	cargo run --quiet -- openapi --format yaml > openapi/openapi.yaml

clean: ## Remove build outputs
	cargo clean
