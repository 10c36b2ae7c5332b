# Two commands do all the set-up: `make demo` and `make test`. Both create .venv and install the pinned packages; again = nothing to install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
SITE ?= out/site

.PHONY: install install-scale demo demo-data test test-all lint bench docs clean

# TORCH=preinstalled: the environment sees the packages of $(PYTHON), and a torch that is there is used as it is.
ifeq ($(TORCH),preinstalled)
VENV_FLAGS := --system-site-packages
PINS := $(VENV)/constraints.txt
else
PINS := constraints.txt
endif

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
ifeq ($(TORCH),preinstalled)
	grep -vE '^(torch|torchvision)==' constraints.txt > $(PINS)
	$(BIN)/python -c "import torch; print('torch==' + torch.__version__)" >> $(PINS)
endif
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[dev]'
	touch $@

install-scale: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[dev,scale]'

demo: install
	$(BIN)/python -m reactvl demo --out $(OUT)

demo-data: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[dev,demo-data]'
	$(BIN)/python demo/build.py --out demo

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-all: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m 'slow or not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(SITE)
	@echo "the guides are in $(SITE)/index.html"

BENCHMARKS := photographs decoding pool_access embeddings_io embed exact_search index_build approximate_search interactive serve retrieve_stage augmentation customize evaluate fashion_mnist

bench: install
	$(BIN)/python benchmarks/environments/make.py
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/vectors.py --check
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) out
