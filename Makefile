# make demo   classify and rank a handful of pictures, offline
# make test   everything that must hold: format, lint, types, tests, parity with published packages
# make check  format, lint and types alone
# make bench  every benchmark, and what they print to docs/benchmarks.md (an hour)
# make clean  remove the environments

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml constraints.txt

# run a command, with a dot every five seconds to show that it is alive
alive = (while sleep 5; do printf .; done) & dots=$$!; $(1); status=$$?; kill $$dots; echo; exit $$status

.PHONY: demo test check bench clean

demo: $(VENV)/.installed
	@sh examples/demo.sh $(BIN)/oneclip

test: check .parity/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.testing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.benching .parity/.installed
	$(BIN)/python benchmarks/document.py

# torch comes first: its pinned version is the small CPU build where one is offered
$(VENV)/.installed: $(SOURCES)
	@printf "making the environment $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(call alive,$(PIP) install "$$(grep '^torch==' constraints.txt)" && $(PIP) install --constraint constraints.txt --editable .)
	@touch $@

$(VENV)/.testing: $(VENV)/.installed
	@printf "installing what the tests need"
	@$(call alive,$(PIP) install --constraint constraints.txt --editable ".[test]" && $(PIP) install --constraint constraints.txt --no-deps torchvision)
	@touch $@

$(VENV)/.benching: $(VENV)/.testing
	@printf "installing what the benchmarks compare with"
	@$(call alive,$(PIP) install --constraint constraints.txt --editable ".[bench]")
	@touch $@

# published packages own our import names, so they live in a folder of their own
.parity/.installed: $(VENV)/.testing tests/parity/install.py
	@printf "downloading the published packages that the parity tests compare with"
	@$(call alive,$(BIN)/python tests/parity/install.py)
	@touch $@

clean:
	rm -rf $(VENV) .parity
