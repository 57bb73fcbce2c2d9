# `make demo` and `make test` do all the set-up on a machine with Python 3.11, git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
UV := uv==0.13.9
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: env demo airflow test test-services check images kubeflow infra format lock clean

env: $(VENV)/.complete

# The marker is made last: an installation that was interrupted is begun again.
$(VENV)/.complete: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
# pip takes the build of torch that the machine is set up for; uv needs seconds for the rest, where pip needs minutes.
	$(BIN)/python -m pip install --quiet --progress-bar off --no-compile $(UV) $$(grep '^torch==' requirements.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.txt \
	  || $(BIN)/python -m pip install --quiet --progress-bar off --no-compile --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
# On all cores, and without what is never imported here; a file that is no Python 3 is no failure.
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests|sklearn|kubernetes|kubernetes_asyncio)/' $(VENV)/lib || true
	touch $@

demo: env
	hounsfield phantom
	dvc repro
	hounsfield results

# Airflow with an embedded database and the project's DAGs; Ctrl-C stops it (PORT=… for another port).
airflow: env
	@exec $(BIN)/python infra/local/run_airflow.py --port $(or $(PORT),8080)

test: env
	python -m pytest -n auto --dist loadfile -m "not services"

# Real Airflow, PostgreSQL, containers; what is not on the machine is skipped, and said.
test-services: env
	python -m pytest -n auto --dist loadfile -m services $(TESTS)

check: env
	ruff check
	ruff format --check
	mypy

# Every stage as an image (BASE=… for another base image; components/make_base.sh makes one).
images: env
	$(BIN)/python -m components.build $(if $(BASE),--base $(BASE))

# Every organ as a Kubeflow pipeline. kfp has an environment of its own: beside Airflow it would take the
# Kubernetes client back by years.
kubeflow: .venv-kubeflow/.complete
	organs=$$($(BIN)/python -c 'import yaml; print(*yaml.safe_load(open("params.yaml"))["organs"])') && \
	for organ in $$organs; do \
		.venv-kubeflow/bin/python -m components.compile_pipeline $$organ || exit 1; \
	done

.venv-kubeflow/.complete: components/requirements-kfp.txt | env
	$(PYTHON) -m venv .venv-kubeflow
	$(BIN)/uv pip install --quiet --python .venv-kubeflow/bin/python --requirement $< \
	  || .venv-kubeflow/bin/python -m pip install --quiet --progress-bar off --requirement $<
	touch $@

# The linters of infra/ and the schema of Terraform's provider, for tests/unit/infra: an environment of its
# own, because checkov holds many libraries back.
infra: .venv-infra/.complete

.venv-infra/.complete: infra/requirements.txt | env
	$(PYTHON) -m venv .venv-infra
	$(BIN)/uv pip install --quiet --python .venv-infra/bin/python --requirement $< \
	  || .venv-infra/bin/python -m pip install --quiet --progress-bar off --requirement $<
	.venv-infra/bin/python -m pip download --quiet --no-deps --dest .venv-infra/schemas cdktf-cdktf-provider-aws==21.22.1
	touch $@

format: env
	ruff check --fix
	ruff format

# After a change of dependencies in pyproject.toml: resolve anew, then try it with `make clean test`.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 --editable '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' > requirements.txt
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-kubeflow .venv-infra
