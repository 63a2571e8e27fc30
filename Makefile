# make demo · make study · make test · make check · make bench · make models · make clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A machine with an NVIDIA driver gets faiss-gpu, every other one faiss-cpu.
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
SOURCES := indexer_lab kernels probes figures tests analyses benchmarks

.PHONY: demo study test check models bench clean environment

demo: $(VENV)/.ready
	$(BIN)/indexer-lab demo --output demo --force

# The nine claims on the shipped models: about half an hour on two cores, most of it running them.
# make study STUDY="--resume" goes on after a stop; --only NAME runs one.
study: $(VENV)/.ready
	$(BIN)/python analyses/run.py $(STUDY)
	$(BIN)/python analyses/gallery.py

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

check: $(VENV)/.ready-check
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

# Trains the shipped models again; the cards in docs/models say what to expect.
models: $(VENV)/.ready
	$(BIN)/python analyses/training/make_models.py -o runs --resume

bench: $(VENV)/.ready-test
	$(BIN)/python benchmarks/run.py

environment: $(VENV)/.ready

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "indexer-lab needs Python 3.11 or newer; name one with make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(FAISS)]"
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(FAISS),eval,test]"
	@touch $@

$(VENV)/.ready-check: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(FAISS),test,check]"
	@touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
