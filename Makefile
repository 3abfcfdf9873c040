# `make demo` and `make test` each do all the set-up in .venv: a fresh machine needs Python and pip only.

PYTHON ?= python3
EXTRAS ?= dev
VENV := .venv
RELIC := $(VENV)/bin/relic
# What an editable install does not pick up by itself.
INSTALLED := pyproject.toml setup.py $(wildcard pipelines/engine/source/*)
DEMO := runs/demo-data

# What `make bench-gpu` measures: JPEGs of a data set such as ImageNet.
IMAGES ?=
THREADS ?= 2
RECORD ?= runs/gpu-views.json

.PHONY: demo test images-given bench-gpu clean

demo: $(VENV)/demo-ready
	rm -rf $(DEMO) runs/demo
	$(RELIC) data synthetic $(DEMO) --train 3000 --test 1000
	$(RELIC) data convert $(DEMO)/train $(DEMO)/train.beton
	$(RELIC) data convert $(DEMO)/test $(DEMO)/test.beton
	$(RELIC) data convert $(DEMO)/test_shifted $(DEMO)/test_shifted.beton
	$(RELIC) masks infer $(DEMO)/train.beton --out $(DEMO)/train.masks
	$(RELIC) pretrain demo --data $(DEMO)/train.beton --masks $(DEMO)/train.masks
	$(RELIC) evaluate runs/demo --test test=$(DEMO)/test.beton --test test_shifted=$(DEMO)/test_shifted.beton
	$(RELIC) views $(DEMO)/train.beton --masks $(DEMO)/train.masks --recipe runs/demo --out runs/demo/views.png
	$(RELIC) report runs/demo

test: $(VENV)/test-ready
	$(VENV)/bin/python -m pytest

images-given:
	@$(if $(IMAGES),,$(error give IMAGES=FOLDER with JPEG files))

bench-gpu: images-given $(VENV)/gpu-ready
	$(VENV)/bin/python -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'torch sees no GPU: $(RELIC) doctor says why')"
	mkdir -p $(dir $(RECORD))
	$(VENV)/bin/python -m benchmarks views --images $(IMAGES) --threads $(THREADS) --batch-size 64 --providers fused-bf16 fused-device dali --json $(RECORD)
	@echo "please open an issue with $(RECORD): it fills the GPU rows of benchmarks/results/RECORDS.md"

clean:
	rm -rf $(VENV) build *.egg-info pipelines/engine/native*.so

# Debian's Python lacks ensurepip unless python3-venv is there; pip can then install itself into the environment.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV) || ($(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV)/bin/python install pip)

$(VENV)/demo-ready: $(INSTALLED) | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/gpu-ready: $(INSTALLED) | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable '.[dali]'
	touch $@

$(VENV)/test-ready: $(INSTALLED) | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@
