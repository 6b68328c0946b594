# Every target sets up its own virtual environment from nothing. PYTHON=python3.12 make setup picks another one.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEBIAN_PG ?= /usr/lib/postgresql/15/bin

.PHONY: setup run test test-debian-postgres check interop lab bench bench-cluster clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Sora needs Python 3.11 or newer with venv: on Debian, apt-get install python3 python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,s3-local,dev]'
	@touch $(STAMP)

run: $(STAMP)
	$(BIN)/sora-node quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadscope -m "not interop and not bench and not lab" $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/arch

interop: $(STAMP) test-debian-postgres
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m interop tests/interop $(ARGS)

# The same tests as with the wheel's PostgreSQL, on Debian 12's.
test-debian-postgres: $(STAMP)
	@if test -x $(DEBIAN_PG)/postgres; then \
	  SORA_TEST_PG_BIN=$(DEBIAN_PG) $(BIN)/python -m pytest -q -n auto --dist loadscope \
	    -m "not interop and not bench and not lab" tests/contracts tests/storage; \
	else \
	  echo "SKIPPED: the suite on Debian's PostgreSQL: $(DEBIAN_PG) is missing (apt-get install postgresql-15)" >&2; \
	fi

# Three nodes in network namespaces: needs root. By hand: $(BIN)/python -m tests.lab
lab: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m lab tests/lab $(ARGS)

# SOAK: the part of a day's mail that goes through staging at the end.
SOAK ?= 1.0
bench: $(STAMP)
	$(BIN)/python -m tests.bench $(ARGS)
	$(BIN)/python -m tests.bench.repair
	$(BIN)/python -m tests.bench.delivery
	$(BIN)/python -m tests.bench.sieve
	$(BIN)/python -m tests.bench.sievelimits
	$(BIN)/python -m tests.bench.verify --messages 100000 --broken
	$(BIN)/python -m tests.bench.staging --scale $(SOAK)

# Of the cluster: membership and shared state simulated beside an agent's timings, then real nodes (needs root).
bench-cluster: $(STAMP)
	$(BIN)/python -m tests.bench.membership
	$(BIN)/python -m tests.bench.sharing
	$(BIN)/python -m tests.bench.cluster
	$(BIN)/python -m tests.bench.deaths

clean:
	rm -rf $(VENV) build *.egg-info
