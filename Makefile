# Two commands do everything on a fresh machine with Python 3.10+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo

.PHONY: help install demo test lint types unit dist docs test-lowest clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv and install reid-da with the cpu, dev and docs extras

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev,docs]'
	touch $@

demo: $(STAMP)  ## adapt a model from one rendered site to the other, by ECN and then by clusters: a table, ranked lists, curves, a report
	$(BIN)/reid-da data check data/rendered/site-a
	$(BIN)/reid-da data check data/rendered/site-b
	if test -f $(DEMO)/config.yaml; then $(BIN)/reid-da train --resume $(DEMO); \
	else $(BIN)/reid-da train experiments/rendered/demo.yaml -o $(DEMO); fi
	if test -f $(DEMO)-clusters/config.yaml; then $(BIN)/reid-da train --resume $(DEMO)-clusters; \
	else $(BIN)/reid-da train experiments/rendered/demo_clusters.yaml init_from=$(DEMO) -o $(DEMO)-clusters; fi
	$(BIN)/reid-da curves $(DEMO)
	$(BIN)/reid-da results $(DEMO)/pretrain $(DEMO) $(DEMO)-clusters -o $(DEMO)/table.md
	$(BIN)/reid-da ranked-lists $(DEMO)/pretrain $(DEMO) $(DEMO)-clusters -o $(DEMO)/ranked-lists.png
	$(BIN)/reid-da report $(DEMO) $(DEMO)-clusters -o $(DEMO)/report.html

test: lint types unit dist docs  ## ruff, mypy --strict, pytest, sdist and wheel, documentation

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy --strict reid_da tools

unit: $(STAMP)
	$(BIN)/python -m pytest -q -n auto

dist: $(STAMP)  ## build sdist and wheel, and use the wheel in an environment of its own
	$(BIN)/python tools/check_dist.py

docs: $(STAMP)  ## build the documentation site in build/docs
	$(BIN)/python tools/build_docs.py

test-lowest:  ## the unit tests with the oldest supported dependencies, in an environment of their own
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint tools/lowest.txt --editable '.[cpu,dev]'
	$(VENV)-lowest/bin/python -m pytest -q -n auto

clean:  ## remove the environments and the caches
	rm -rf $(VENV) $(VENV)-lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
