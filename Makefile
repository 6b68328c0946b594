# Every target sets up its own virtual environment from nothing. PYTHON=python3.12 make setup picks another one.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup run test check interop bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Sora needs Python 3.11 or newer with venv: on Debian, apt-get install python3 python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,s3-local,dev]'
	@touch $(STAMP)

run: $(STAMP)
	$(BIN)/sora-node quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadscope -m "not interop and not bench" $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/arch

interop: $(STAMP)
	$(BIN)/python -m pytest -m interop tests/interop $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info
