# make demo, make test: each works from a bare clone and sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KEEP ?=
# As many test processes as cores, up to four. A file stays in one, since its tests share their servers; in order, since
# the longest come first.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))
PROOF := benchmarks/results/proof-$(shell date -u +%F).txt
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: help setup programs demo test proof lint dashboards lint-dashboards pictures image lock proof-container clean

help:
	@echo "make setup        .venv with pinned versions, and the Debian packages (the others call it; PYTHON=python3.13 chooses)"
	@echo "make demo         set up, then run the whole house on real data (KEEP=1 leaves it running)"
	@echo "make test         set up, then run the tests"
	@echo "make proof        the slow proofs: long loops and benchmarks, results in benchmarks/results"
	@echo "make lint         ruff, mypy, and whether the generated files are current"
	@echo "make image        the image of the champion, with docker, podman or buildah (IMAGE='--help' lists options)"
	@echo "make lock         write the locks of the image anew"
	@echo "make proof-container  build images from nothing and run them locked down (root, on Debian)"
	@echo "make dashboards   write grafana/ dashboards, rules and tests anew"
	@echo "make lint-dashboards   hold the dashboards against Grafana's types (needs npm)"
	@echo "make pictures     run the demo and draw docs/oncall-*.png (needs npm and Chromium)"

# A .venv keeps its Python until PYTHON= names another version; then it is made anew.
ifneq ($(origin PYTHON),file)
HELD := $(shell sed -n 's/^version = \([0-9]*\.[0-9]*\).*/\1/p' $(VENV)/pyvenv.cfg 2>/dev/null)
ASKED := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifneq ($(HELD),$(ASKED))
CLEAR := --clear
.PHONY: $(VENV)/.ready
endif
endif

# The stamp is the lock file's: a changed pin sets up again.
$(VENV)/.ready: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"Python 3.11-3.13 is needed, this is {v[0]}.{v[1]}; choose one: make PYTHON=python3.12")'
	@echo "set up, 1 of 3: $(VENV) of its own for Python; a few seconds"
	$(if $(CLEAR),,@$(BIN)/python -m pip --version >/dev/null 2>&1 ||) $(PYTHON) -m venv --clear $(VENV)
	@echo "set up, 2 of 3: $$(grep -c == constraints.txt) packages at the versions of constraints.txt; 1 GB to fetch, 3 GB on disk; minutes"
	@[ -t 1 ] && quiet= || quiet=--quiet; $(BIN)/python -m pip install $$quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' && echo "set up: the packages are there after $$SECONDS s"
	@touch $@

setup: $(VENV)/.ready programs

programs:
	@sh deploy/programs.sh

demo: setup
	$(BIN)/vigil demo $(if $(KEEP),--keep)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

proof: setup
	@mkdir -p benchmarks/results
	@{ date -u +%FT%TZ; uname -srm; echo "$$(nproc) cores"; echo "pytest -m proof"; } > $(PROOF)
	$(BIN)/python -m pytest -m proof -q -s --durations=0 2>&1 | tee -a $(PROOF)
	$(BIN)/python -m benchmarks.run

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m grafana.build --check
	$(BIN)/python -m deploy.build --check

dashboards: setup
	$(BIN)/python -m grafana.build
	$(BIN)/python -m deploy.build

image: setup
	$(BIN)/python -m deploy.image.build $(IMAGE)

lock: setup
	$(BIN)/python -m deploy.image.lock

# @grafana/schema and tsc go into grafana/lint/node_modules: 26 MB, for development only.
lint-dashboards:
	@command -v npm >/dev/null || { echo "npm is missing; install it with: sudo apt-get install npm" >&2; exit 1; }
	cd grafana/lint && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --silent && npm run --silent lint

# One run of the demo, and the On-call dashboard at two of its moments; npm and Chromium, for development only.
pictures: setup
	$(BIN)/vigil demo --out build/pictures
	$(BIN)/python -m demo.screenshot.draw --run build/pictures/out --out docs

proof-container: setup
	$(BIN)/python -m deploy.image.proof $(PROOF_OPTIONS)

clean:
	rm -rf $(VENV) runs demo/out demo/report.html
