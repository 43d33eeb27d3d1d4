# Everything that people and CI run. `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE := $(or $(SERVINGPLAN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/servingplan)
export SERVINGPLAN_CACHE := $(CACHE)
export UV_PYTHON_DOWNLOADS := never
UV_VERSION := 0.13.9

# The first Python that is new enough; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3 python3.14; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
# The oldest Python that is supported, where it is there.
OLDEST = $(or $(shell python3.12 -c 'print("python3.12")' 2>/dev/null),$(PYTHON))
# A uv of our own unless one is installed: people need not have it.
UV := $(or $(shell command -v uv 2>/dev/null),$(CACHE)/uv-$(UV_VERSION)/bin/uv)
RUN := .venv/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

$(CACHE)/uv-$(UV_VERSION)/bin/uv:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.12 or newer was found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing uv $(UV_VERSION) into $(CACHE)"
	@$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION)
	@$(CACHE)/uv-$(UV_VERSION)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.locked: uv.lock pyproject.toml $(UV)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.12 or newer was found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing the Python environment into .venv, from the lock file"
	@$(UV) sync --locked --quiet --compile-bytecode --python "$$(command -v $(PYTHON))"
	@touch $@

.PHONY: setup
setup: .venv/.locked ## the Python environment, from the lock file

.PHONY: control-plane
control-plane: setup ## build etcd, Kubernetes, KWOK, Karpenter and Helm from Go modules, once
	$(RUN)/python -m localcluster.binaries

.PHONY: demo
demo: setup control-plane ## the main job on a local cluster, start to end (KEEP=1 leaves the cluster up)
	$(RUN)/python -m e2e.demo $(if $(KEEP),--keep)

.PHONY: demo-down
demo-down: setup ## end what `make demo KEEP=1` left running
	$(RUN)/python -m e2e.demo --down

.PHONY: unit
unit: setup ## the fast tests, no cluster (what a bare pytest runs)
	$(RUN)/pytest -q -n 2 --dist worksteal

.PHONY: check
check: setup ## formatting, lint, types, import contracts
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-logo 2>/dev/null || $(RUN)/lint-imports

.PHONY: test
test: check control-plane ## every test, those against the real control plane too
	EXHAUSTIVE=1 $(RUN)/pytest -q -n 2 --dist worksteal tests/unit
	$(RUN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/contract tests/browser e2e --ignore e2e/real
	$(RUN)/pytest -q e2e/real

.PHONY: newest lowest
newest lowest: $(UV) ## the fast tests with the newest (lowest) dependencies that pyproject.toml allows; before a release
	$(UV) venv --quiet --clear --python "$$(command -v $(if $(filter lowest,$@),$(OLDEST),$(PYTHON)))" .venv-$@
	$(UV) pip compile --quiet --group dev --python .venv-$@/bin/python --resolution $(if $(filter lowest,$@),lowest-direct,highest) \
	  pyproject.toml --output-file .venv-$@/requirements.txt
	$(UV) pip install --quiet --python .venv-$@/bin/python --requirement .venv-$@/requirements.txt --editable .
	.venv-$@/bin/pytest -q -n 2 --dist worksteal

.PHONY: histories
histories: setup ## HISTORIES=10000 random histories of a simulated fleet, from seed FIRST_HISTORY=0 on; a failure names its seed
	HISTORIES=$(or $(HISTORIES),10000) $(RUN)/pytest -q -n 2 --dist worksteal tests/unit/simulation/test_histories.py

.PHONY: browser
browser: export BROWSER := 1
browser: setup ## the pages in a real Chromium, where it is installed (Debian: chromium, chromium-driver); UPDATE_GOLDEN=1 takes the documentation's pictures
	$(RUN)/pytest -q tests/browser

.PHONY: soak
soak: setup control-plane ## 200 changes of a plan under load, and no request lost (nine minutes)
	CHANGES=200 $(RUN)/pytest -q -s e2e/test_no_request_lost.py

.PHONY: real-node
real-node: setup control-plane ## only the stories on a real node (root; builds the kubelet once, some minutes)
	$(RUN)/pytest -q e2e/real

.PHONY: argocd
argocd: setup control-plane ## the story with the real Argo CD (two minutes; its first build takes five minutes of CPU)
	$(RUN)/pytest -q e2e/test_argocd.py

.PHONY: bench
bench: setup control-plane ## benchmarks; the figures go to docs/benchmarks.md
	$(RUN)/python -m benchmarks

.PHONY: image
image: setup ## the operator's image, into dist/: by docker, podman or buildah where one runs, else by this project's own builder
	@mkdir -p dist
	@engine="$(ENGINE)"; archive=dist/servingplan-$(VERSION).tar; name=docker.io/library/servingplan:$(VERSION); \
	base="$(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE))"; rm -f $$archive; \
	for one in docker podman buildah; do [ -n "$$engine" ] || { $$one info >/dev/null 2>&1 && engine=$$one; }; done; \
	case "$$engine" in \
	  docker|podman) $$engine build $$base -t $$name . && $$engine save -o $$archive $$name ;; \
	  buildah) buildah build $$base -t $$name . && buildah push $$name docker-archive:$$archive:$$name ;; \
	  *) $(RUN)/python -m localcluster.image --output $$archive ;; \
	esac

.PHONY: wheel
wheel: $(UV) ## the package, into dist/
	$(UV) build --quiet --wheel --out-dir dist

.PHONY: try-wheel
try-wheel: wheel ## install the wheel into a fresh environment, with the newest dependencies that it allows, and make a plan
	$(UV) venv --quiet --clear --python "$$(command -v $(PYTHON))" .venv-wheel
	$(UV) pip install --quiet --python .venv-wheel/bin/python --resolution highest dist/servingplan-$(VERSION)-py3-none-any.whl
	test "$$(.venv-wheel/bin/servingplan --version)" = "servingplan $(VERSION)"
	.venv-wheel/bin/servingplan plan examples/chat.yaml

.PHONY: krew
krew: wheel ## the archive and the manifest by which krew installs `kubectl servingplan`, into dist/; ADDRESS= of its downloads
	@$(PYTHON) krew/pack.py dist/servingplan-$(VERSION)-py3-none-any.whl "$(or $(ADDRESS),ADDRESS)"

.PHONY: sbom
sbom: $(UV) ## what the image holds of Python, from the lock file, as CycloneDX into dist/
	@mkdir -p dist
	$(UV) export --quiet --locked --no-dev --format cyclonedx1.5 --preview-features sbom-export --output-file dist/servingplan.cdx.json > /dev/null

.PHONY: papers
papers: setup ## re-run the tables of the papers, quickly; KEEP=FILE resumes; `python -m papers --help` for the long form
	$(RUN)/python -m papers $(if $(KEEP),--keep $(KEEP))

.PHONY: crd
crd: setup ## write the CRD from the models of the API
	$(RUN)/servingplan crd -o crds/llmservingplans.servingplan.dev.yaml
	cp crds/llmservingplans.servingplan.dev.yaml charts/servingplan/crds/
	cp crds/llmservingplans.servingplan.dev.yaml charts/servingplan-crds/files/

.PHONY: chart-readme
chart-readme: setup ## write the chart's README from its values.yaml
	$(RUN)/python charts/readme.py

.PHONY: reference
reference: setup ## write the reference pages of the plan, the commands and the metrics from the code
	$(RUN)/python docs/reference.py

.venv-docs/.locked: uv.lock pyproject.toml $(UV)
	UV_PROJECT_ENVIRONMENT=.venv-docs $(UV) sync --locked --quiet --only-group docs --python "$$(command -v $(PYTHON))"
	@touch $@

.PHONY: site
site: .venv-docs/.locked ## the documentation as a site, into dist/site; a link that leads nowhere ends it
	@# Not with --quiet, under which MkDocs counts no warnings.
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.PHONY: clean
clean: ## remove the environment and caches of this folder (the built control plane stays)
	rm -rf .venv .venv-newest .venv-lowest .venv-docs .venv-wheel .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
