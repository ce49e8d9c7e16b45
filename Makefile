# make demo   classify and rank a handful of images, offline
# make test   everything that must hold: format, lint, types, tests, parity with published packages
# make test-fast  the quick tests alone, under two minutes
# make check  format, lint and types alone
# make docs   the documentation site, into build/site
# make release  the wheel and the source distribution, tried in an empty environment
# make bench  every benchmark, and what they print to docs/benchmarks.md (an hour)
# make clean  remove the environments

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# modules are compiled when they are first imported: of these packages, most never are
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt
# otherwise every process of the tests would compile torch again
unexport PYTHONDONTWRITEBYTECODE

# run a command, with a dot every five seconds to show that it is alive
alive = (while sleep 5; do printf .; done) & dots=$$!; $(1); status=$$?; kill $$dots; echo; exit $$status

.PHONY: demo test test-fast check docs release bench clean

demo: $(VENV)/.installed
	@sh examples/demo.sh $(BIN)/oneclip

# the packages of .parity and .runtime are fetched beside the checks
test:
	@$(MAKE) --no-print-directory --jobs=2 check .parity/.installed .runtime/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.testing
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

check: $(VENV)/.testing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python docs/make_site.py

# the wheel goes into an environment of its own, where pocket must answer offline
release: $(VENV)/.torch
	rm -rf dist build/release
	$(INSTALL) build twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check dist/*
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip --quiet install --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	build/release/bin/python -m pip --quiet install --constraint constraints.txt dist/*.whl
	ONECLIP_OFFLINE=1 build/release/bin/oneclip classify examples/images/cat.png --label "a cat" --label "a dog"

bench: $(VENV)/.benching .parity/.installed
	$(BIN)/python benchmarks/document.py

# torch comes first: its pinned version is the small CPU build where one is offered
$(VENV)/.torch: $(SOURCES)
	@printf "making the environment $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(call alive,$(INSTALL) "$$(grep '^torch==' constraints.txt)")
	@touch $@

$(VENV)/.installed: $(VENV)/.torch
	@printf "installing oneclip"
	@$(call alive,$(INSTALL) --editable .)
	@touch $@

$(VENV)/.testing: $(VENV)/.torch
	@printf "installing what the tests need"
	@$(call alive,$(INSTALL) --editable ".[test]" && $(INSTALL) --no-deps torchvision)
	@touch $(VENV)/.installed $@

$(VENV)/.docs: $(VENV)/.installed
	@printf "installing what builds the documentation"
	@$(call alive,$(INSTALL) --editable ".[docs]")
	@touch $@

$(VENV)/.benching: $(VENV)/.testing
	@printf "installing what the benchmarks compare with"
	@$(call alive,$(INSTALL) --editable ".[bench]")
	@touch $@

# published packages own our import names, so they live in a folder of their own
.parity/.installed: $(VENV)/.testing tests/parity/install.py
	@printf "downloading the published packages that the parity tests compare with"
	@$(call alive,$(BIN)/python tests/parity/install.py)
	@touch $@

# where torch is not installed, and oneclip is imported from src
.runtime/.installed: requirements-runtime.txt constraints.txt
	@printf "making the environment .runtime, without torch"
	@$(PYTHON) -m venv .runtime
	@$(call alive,.runtime/bin/python -m pip --disable-pip-version-check --quiet install --no-compile \
		--constraint constraints.txt --requirement requirements-runtime.txt)
	@touch $@

clean:
	rm -rf $(VENV) .parity .runtime
