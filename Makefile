# Every target makes .venv when it is not there and adds what it needs, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
MODEL := deploy/models/pocket
NODE := protos/examples/node/node_modules

.DEFAULT_GOAL := help
.PHONY: help demo test triton compose-test test-gpu lint proto settings bench bench-short bench-mesh bench-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: .venv/.demo ## make a picture: starts the whole mesh on this machine, on the CPU
	$(BIN)/sangsang generate --local "a rocket on a yellow background" --seed 7 --output out/rocket.png
	@echo
	@echo "Look at out/rocket.png. Then try:"
	@echo "  $(BIN)/sangsang up                                   # keep a mesh running"
	@echo "  $(BIN)/sangsang generate \"a cat on a blue background\" --tier free -n 4"
	@echo "  $(BIN)/sangsang generate \"a pizza\" --scheduler euler_ancestral --steps 20"
	@echo "  $(BIN)/sangsang models                               # tiers, schedulers, limits"

test: .venv/.test .venv-triton/.ready $(NODE)/.ready ## run the tests: no network, no GPU
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: .venv/.test .venv/.lint ## ruff, pyright, buf, and whether generated code is stale
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	PYTHON=$(CURDIR)/$(BIN)/python protos/lint.sh
	PYTHON=$(CURDIR)/$(BIN)/python protos/generate.sh --check

proto: .venv/.demo .venv/.lint ## regenerate the Python code of the protos
	PYTHON=$(CURDIR)/$(BIN)/python protos/generate.sh
	$(MAKE) -C protos/inference PYTHON=$(CURDIR)/$(BIN)/python

settings: .venv/.test ## write deploy/settings.md from the settings classes
	$(BIN)/python -m tests.support.settings_table

bench: .venv/.bench .venv-triton/.bench .venv-litserve/.bench ## measure the mesh beside its peers: half an hour on a quiet machine
	$(BIN)/python -m tests.benchmarks.peers run

bench-short: .venv/.bench .venv-triton/.bench .venv-litserve/.bench ## the same in five minutes, with fewer loads
	$(BIN)/python -m tests.benchmarks.peers run --short

bench-mesh: .venv/.test ## measure the mesh against its bare engines, and the tiers against each other
	$(BIN)/python -m tests.benchmarks.mesh_against_engines $(MODEL)
	$(BIN)/python -m tests.benchmarks.tiers $(MODEL)

triton: .venv-triton/.ready ## install a real NVIDIA Triton Inference Server for the tests, where there is one

compose-test: .venv/.test .container-base/.ready ## run the mesh in containers, as root, where there is Docker
	$(BIN)/pytest tests/compose

test-gpu: .venv/.test .venv/.tensorrt ## run what only an NVIDIA GPU can show
	$(BIN)/pytest tests/gpu -m gpu

bench-gpu: test-gpu .venv/.tensorrt ## measure the kernels, and a UNet step in TensorRT with them and without
	$(BIN)/python -m tests.benchmarks.kernels_against_torch
	$(BIN)/python -m tests.benchmarks.unet_steps_in_tensor_rt $(MODEL)

clean: ## remove .venv and what was made
	rm -rf .venv .venv-triton .venv-litserve .container-base $(NODE) out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml
	$(INSTALL) --editable '.[cpu]'
	@touch $@

.venv/.test: .venv/bin/python pyproject.toml
	$(INSTALL) --editable '.[test]'
	@touch $@ .venv/.demo

.venv/.tensorrt: .venv/.test
	@$(INSTALL) --editable '.[tensorrt]' && touch $@ || echo "TensorRT is not installed: its tests are skipped"

.venv/.lint: .venv/bin/python pyproject.toml
	$(INSTALL) --editable '.[lint]'
	@touch $@

# Never fails: where there is no such server, the tests that need it say so and are skipped.
.venv-triton/.ready: .venv/.test tests/support/triton_server_venv.sh
	PYTHON=$(PYTHON) tests/support/triton_server_venv.sh

# Nor this: without Node.js the tests of its examples are skipped.
$(NODE)/.ready: protos/examples/node/package-lock.json
	@npm ci --silent --ignore-scripts --prefix protos/examples/node && touch $@ || \
		echo "npm could not install the Node.js examples: their tests are skipped"

# Never fails either: without it the test of the containers says why it is skipped.
.container-base/.ready: .venv/.test pyproject.toml tests/support/container_base.sh
	tests/support/container_base.sh

.venv/.bench: .venv/.test pyproject.toml
	$(INSTALL) --editable '.[bench]'
	@touch $@

# Peers live in environments of their own, with the ONNX Runtime of ours.
ONNX_RUNTIME = onnxruntime==$(shell $(BIN)/python -c 'import onnxruntime; print(onnxruntime.__version__)')
ENGINES = $(ONNX_RUNTIME) grpcio pillow pydantic safetensors tokenizers

# The tests' server, and what our engines need in its processes.
.venv-triton/.bench: .venv/.bench .venv-triton/.ready
	.venv-triton/bin/pip install --quiet --disable-pip-version-check 'numpy<2' $(ENGINES)
	@touch $@

.venv-litserve/.bench: .venv/.bench
	$(PYTHON) -m venv .venv-litserve
	.venv-litserve/bin/pip install --quiet --disable-pip-version-check 'litserve==0.2.19' $(ENGINES)
	@touch $@
