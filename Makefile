# Each target sets up .venv itself (venv and pip are all it needs) and is quick when that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo

.PHONY: demo test lint docs bench wosac-parity clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps waymo-open-dataset-tf-2-12-0
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/gail_cli
	@touch $@

demo: $(READY)  ## sample scenes -> store -> validate -> a short training -> evaluation and pictures
	rm -rf $(DEMO)
	$(BIN)/gail-cli extract-demos data/sample --store $(DEMO)/store
	$(BIN)/gail-cli validate $(DEMO)/store --config data/demo.yaml
	$(BIN)/gail-cli train data/demo.yaml --store $(DEMO)/store --run $(DEMO)/run
	$(BIN)/gail-cli evaluate $(DEMO)/run --store $(DEMO)/store --report $(DEMO)/evaluation.json --picture $(DEMO)/scene.png --scene 855e2ac7a9458934
	@echo "See $(DEMO)/scene.png and $(DEMO)/run/curves.png."

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest

lint: $(READY)  ## style, types, and that imports run one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(READY)  ## the tables of docs/configuration.md, from the documentation of the settings
	$(BIN)/python -m gail_cli.gail.config.document docs/configuration.md

bench: $(READY)  ## speed of simulator and store, and how experts drive, on the sample
	$(BIN)/python -m benchmarks.simulator
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.experts data/sample

SUBMISSIONS := $(wildcard ../shared/wosac/*.binproto)
SCENES := ../shared/womd/tfrecord

wosac-parity: $(READY)  ## our score and the official scorer's, in an environment of its own (.wosac), on the same drives
	$(if $(SUBMISSIONS),$(BIN)/python -m benchmarks.wosac_parity --submission $(SUBMISSIONS) --scenes $(SCENES))
	$(BIN)/python -m benchmarks.wosac_parity --scenes data/sample

clean:  ## remove everything that make made
	rm -rf $(VENV) $(DEMO)
