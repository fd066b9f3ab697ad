# Casbah: `make demo` runs the main job on this machine, `make test` proves it. `make help` lists the rest.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK := constraints.txt

# Another package index for torch and torchvision. The plain pin takes CUDA builds (gigabytes) on most machines;
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
# takes the CPU builds: minutes on a laptop. The environment remembers the index; naming another one sets torch up again.
# Where none was ever named, pip's own configuration decides.
KEPT_INDEX := $(shell cat $(VENV)/.torch-index 2>/dev/null)
ifeq ($(TORCH_INDEX),)
override TORCH_INDEX := $(KEPT_INDEX)
endif
TORCH_PINS := $(shell grep -E '^(torch|torchvision)==' $(LOCK))

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo up down test test-long test-guide test-study test-consumers test-unit test-images lint format types bench pisa maps algiers pipeline locks \
	notebooks api images images-sizes images-start images-sbom images-scan images-push images-pin images-mirror clean clean-data \
	FORCE

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 — \2/p' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Set up .venv/ with everything locked (TORCH_INDEX picks another index for torch)

$(VENV)/.installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "make: $(PYTHON) is not Python 3.11; install it, or name it: make install PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up $(VENV)/ (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# pip would be content with any build of the pinned version that is there already.
	@if [ "$(TORCH_INDEX)" != "$(KEPT_INDEX)" ]; then \
		$(BIN)/python -m pip uninstall --quiet --yes torch torchvision 2>/dev/null; fi
	@if [ -n "$(TORCH_INDEX)" ]; then \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --index-url "$(TORCH_INDEX)" $(TORCH_PINS); fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[dev]'
	@echo "$(TORCH_INDEX)" > $(VENV)/.torch-index
	@touch $@

ifneq ($(TORCH_INDEX),$(KEPT_INDEX))
$(VENV)/.installed: FORCE
endif

demo: install ## The whole pipeline on the simulated sample town: S3, MLflow, KFP, report and map
	@$(BIN)/casbah demo

up: install ## Start the embedded object store and MLflow for your own work
	@$(BIN)/casbah up

down: install ## Stop them
	@$(BIN)/casbah down

TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
ELSEWHERE := --ignore tests/study --ignore tests/guide --ignore tests/images --ignore tests/consumers

test: install lint types ## Lint, types, and every test that this machine can run but those of the targets below
	@$(TESTS) tests $(ELSEWHERE) -m "not long"

test-long: install ## Trainings killed, spread and tuned, every row of the study, notebooks, mapping: a quarter of an hour
	@$(TESTS) tests $(ELSEWHERE) -m long

test-guide: install ## Every command of docs/guide.md, held against what the page says it prints: five minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/guide

test-study: install ## `casbah compare --small`, every row of the study: a quarter of an hour
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/study -s

test-consumers: install ## A registered network in an environment of its own, torch and all installed anew: five minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/consumers

test-unit: install ## The tests that need no services (seconds)
	@$(TESTS) tests/unit -m "not long"

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install
	@$(BIN)/mypy

format: install ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# What the images are made of and where they go:
#   make images REGISTRY=ghcr.io/me           build with CUDA, push, and pin by digest in build/images.json
#   make images && make images-scan && make images-push REGISTRY=ghcr.io/me      nothing is pushed that has a known hole
#   make images ACCELERATOR=cpu               torch for CPUs
#   make images WHEELS=1 BASE_IMAGE=local/base   a build without network: packages by this machine's pip, another base
ACCELERATOR ?= cuda
IMAGES_JSON ?= build/images.json
export DOCKER ?= docker
export GRYPE ?= grype
IMAGES := $(BIN)/python images/build.py $(if $(REGISTRY),--registry "$(REGISTRY)") $(if $(TAG),--tag "$(TAG)") \
	$(if $(BASE_IMAGE),--base-image "$(BASE_IMAGE)") $(if $(WHEELS),--wheels) $(if $(INDEX_URL),--index-url "$(INDEX_URL)") \
	$(if $(NETWORK),--network "$(NETWORK)")

images: install ## Build an image per stage; with REGISTRY=… push them; write build/images.json
	@$(IMAGES) --accelerator $(ACCELERATOR)

images-sizes: ## How large the images are, unpacked
	@$(PYTHON) images/build.py --sizes

images-start: ## Start each image once, as anyone and read-only, and let `casbah doctor` look at what is in it
	@$(PYTHON) images/start.py

images-sbom: install ## What is in each image, as CycloneDX: build/sbom/
	@$(BIN)/python images/sbom.py

images-scan: ## Look for known holes in the images: fails on a critical one that has a fix (GRYPE names the scanner)
	@$(PYTHON) images/scan.py

images-push: install ## Push what `make images` has built to REGISTRY, and pin it by digest in build/images.json
	@$(IMAGES) --push

images-pin: ## Let manifests/overlays/$(OVERLAY) run what build/images.json (IMAGES_JSON) names
	@$(PYTHON) images/pin.py $(or $(OVERLAY),local) --images $(IMAGES_JSON)

images-mirror: install ## Name the same images in REGISTRY: build/mirrored.json, and what to copy, a line each
	@$(BIN)/python images/mirror.py "$(REGISTRY)" --images $(IMAGES_JSON)

locks: install ## Resolve what the images install anew (images/locks/)
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet uv; }
	@$(BIN)/python images/lock.py build/uv/bin/uv

test-images: install ## Build the images for CPUs, and run the whole pipeline in them (needs a Docker engine)
	@$(IMAGES) --accelerator cpu
	@$(BIN)/python images/sbom.py
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/images -s

notebooks: install ## Run the notebooks on the simulated town, and keep them with their output: build/notebooks/ (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python notebooks/execute.py build/notebooks

api: install ## The API reference, from docstrings: build/api/index.html
	@$(BIN)/python docs/api.py build/api

pipeline: install ## Compile the Kubeflow pipeline to build/building_footprints.yaml
	@$(BIN)/casbah pipeline compile --output build/building_footprints.yaml

bench: install ## Speed, as ratios measured side by side in one run
	@$(BIN)/python -m bench

pisa: install ## The study on real imagery and footprints of Pisa (needs the data folder: SHARED=../shared)
	@$(BIN)/python studies/pisa.py --shared $(or $(SHARED),../shared) --output runs/pisa

maps: install ## From model to map on real imagery: Pisa, and Valencia which the model never saw (SHARED=../shared)
	@$(BIN)/python studies/maps.py --shared $(or $(SHARED),../shared) --output runs/maps

algiers: install ## The case study: real imagery and OpenStreetMap of Algiers (needs the internet)
	@$(BIN)/casbah pipeline run --output runs/algiers aoi=algiers labels=osm start=2023-06-01 end=2023-09-30 periods=2

clean: ## Stop the services, and remove what demo, pipeline, notebooks and tests made (not your runs, nor .casbah and .venv)
	@test ! -x $(BIN)/casbah || $(BIN)/casbah down
	@rm -rf runs/demo build/building_footprints.yaml build/notebooks build/api .mypy_cache .ruff_cache

clean-data: clean ## Also delete .casbah: object store, checkpoints, MLflow with every registered version
	@rm -rf .casbah
