# captionmix: `make reproduce` and `make test` set everything up by themselves.
PYTHON ?= python3
STUDY ?= real_vs_ssc_vs_dsc
SETTINGS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: install reproduce test check format bench docs docs-figures docs-reference clean

install: $(READY)  ## environment with exact versions

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

reproduce: $(READY)  ## run a study; STUDY=name, SETTINGS="seeds=4"
	$(BIN)/python -m launch study --config configs/studies/$(STUDY).yaml $(SETTINGS)

test: $(READY)  ## the default tests: no GPU, no network, no weights
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## one benchmark: make bench NAME=x
	@test -n "$(NAME)" || { echo "say which: make bench NAME=x, one of"; ls tests/benchmarks | sed -n 's/\.py$$//p'; exit 2; }
	$(BIN)/python tests/benchmarks/$(NAME).py

docs: $(READY)  ## documentation, built strictly
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

docs-figures: $(READY)  ## draw the documentation's figures from docs/data
	$(BIN)/python docs/figures.py

docs-reference: $(READY)  ## write the reference pages from the code
	$(BIN)/python docs/reference.py

clean:  ## remove the environment; runs/ stays
	rm -rf .venv site
